"""CONTRIBUTING's recipes, carried out as they are written on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
BLOCK = r"```python\n(.*?)```"
SMALL = ("steps=1", "model.depth=3", "model.width=8", "replicas=2", "batch_size=8", "data=circles")


def recipe(title: str) -> str:
    return re.split(r"\n###? ", TEXT.partition(f"\n### {title}\n")[2])[0]


def apply(text: str, root: Path) -> None:
    """Make every edit of a recipe: 'In `file`, add to `NAME`', 'In `file`, above `NAME`, add' and 'Write `file`'."""
    edits = re.findall(rf"In `(\S+)`, (add to|above) `(\w+)`.*?\n+{BLOCK}", text, re.DOTALL)
    for file, where, name, code in edits:
        path = root / file
        before, start, after = re.split(rf"^({name}\b.*?\{{)", path.read_text(), maxsplit=1, flags=re.MULTILINE)
        added = f"{start}\n{code}{after}" if where == "add to" else f"{code}{start}{after}"
        path.write_text(before + added)
    for file, code in re.findall(rf"Write `(\S+)`.*?\n+{BLOCK}", text, re.DOTALL):
        (root / file).write_text(code)
        edits.append((file, "", "", code))
    assert edits


def python(root: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_to(folder: Path) -> Path:
    for part in ("lab", "experiments", "conf", "tests"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "claims"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which every recipe has been carried out."""
    root = copy_to(tmp_path_factory.mktemp("copy"))
    for title in ("An activation", "An initialization", "A quantity", "An optimizer", "A command"):
        apply(recipe(title), root)
    return root


@pytest.mark.slow
def test_every_option_that_was_added_can_be_chosen_and_the_quantity_is_measured(copy: Path):
    choices = ("activation=mish", "init=fan_out_normal", "optimizer=sign")
    code = f"import lab; print(*lab.simulate(*{choices + SMALL})['pre_largest'].dims)"
    assert python(copy, "-c", code) == "step layer replica\n"
    assert '"pre_rms_upper"' in python(copy, "-m", "lab", "theory", "activation=mish", "--json")


@pytest.mark.slow
def test_an_activation_that_was_added_passes_the_tests_of_activations(copy: Path):
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/network/test_activations.py", "-k", "mish")
    assert re.search(r"\d+ passed", python(copy, *words))


@pytest.mark.slow
def test_an_activation_without_a_kernel_runs_and_has_no_theory(tmp_path: Path):
    text, root = recipe("An activation"), copy_to(tmp_path)
    start, end = text.index("In `lab/theory"), text.index("In `tests/")
    apply(text[:start] + text[end:], root)
    code = f"import lab; lab.simulate('activation=mish', *{SMALL}); print(lab.predict('activation=mish').attrs)"
    assert "activation=mish" in python(root, "-c", code)


@pytest.mark.slow
def test_a_command_is_added(copy: Path):
    assert python(copy, "-m", "lab", "hello", "world") == "hello world\n"
    assert "print a greeting" in python(copy, "-m", "lab", "--help")


@pytest.mark.slow
def test_another_package_adds_a_command_by_an_entry_point(copy: Path):
    package = copy / "own-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    declared = re.search(r"```toml\n(.*?)```", recipe("A command"), re.DOTALL)
    assert declared
    (package / "entry_points.txt").write_text(
        declared[1].replace('[project.entry-points."gradlab.commands"]', "[gradlab.commands]").replace('"', "")
    )
    (copy / "mypackage").mkdir()
    (copy / "mypackage" / "hello.py").write_text("def main(arguments):\n    print('hello', *arguments)\n    return 0\n")
    assert python(copy, "-m", "lab", "hello", "you") == "hello you\n"
    assert "mypackage.hello:main" in python(copy, "-m", "lab", "--help")


@pytest.mark.slow
def test_what_is_added_from_python_runs_as_written():
    general = TEXT.partition("## Adding to the lab")[2].partition("\n### ")[0]
    code = "".join(re.findall(BLOCK, general + recipe("A sink"), re.DOTALL))
    printed = python(REPOSITORY, "-c", code + "\nprint(readings.sizes)")
    assert printed.splitlines()[-2] == "done"
