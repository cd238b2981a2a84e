"""The wheel: built, installed where this checkout is not to be seen, and run from an empty folder."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.contract import assert_keeps_contract

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*words: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, without anything of this checkout in its environment."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        words, cwd=cwd, env=clean | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that holds the wheel, and borrows what it needs from this one.

    The borrowed folders come after its own, and a .pth file in them, as an editable install leaves it, is not followed.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    [packages] = folder.glob("lib/python*/site-packages")
    borrowed = dict.fromkeys(path for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    (packages / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return programs


def test_the_wheel_holds_the_lab_its_commands_and_every_config_file_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(REPOSITORY)) for part in ("lab", "experiments") for path in python_files(part)}
    config = {f"lab/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "conf").rglob("*.yaml")}
    assert {"lab/conf/config.yaml", "lab/conf/hydra/launcher/replicas.yaml"} <= config
    described = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    templates = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "experiments").rglob("templates/*")}
    assert names - described == modules | config | templates | {"lab/py.typed", "experiments/claims/recorded.json"}
    assert any(name.endswith("licenses/LICENSE") for name in described)


def test_it_runs_from_any_folder(installed: Path, tmp_path: Path):
    origin = run(installed / "python", "-c", "import lab, experiments; print(lab.__file__)", cwd=tmp_path)
    assert Path(origin.strip()).is_relative_to(installed.parent)
    printed = run(installed / "gradlab", "--help", cwd=tmp_path)
    assert "gradlab collect" in printed

    small = ("steps=1", "model.depth=3", "model.width=8", "replicas=2")
    printed = run(installed / "gradlab", "run", *small, "output_dir=mine", cwd=tmp_path)
    assert printed == f"{tmp_path / 'mine'}  finished\n"
    table, _ = assert_keeps_contract(tmp_path / "mine")
    assert table["step"].values.tolist() == [0, 1]

    printed = run(installed / "gradlab", "run", "+experiment=sigmoid_vanishes", "--cfg", "job", cwd=tmp_path)
    assert "activation:\n  name: sigmoid\n" in printed
    readings = "import lab; print(*lab.simulate('steps=0', 'model.width=8', 'replicas=2').sizes.values())"
    assert run(installed / "python", "-c", readings, cwd=tmp_path) == "1 20 2\n"


def python_files(folder: str) -> list[Path]:
    return list((REPOSITORY / folder).rglob("*.py"))
