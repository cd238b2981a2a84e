"""Every command of README is run as it stands there, shortened, in one folder and in order."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.main import COMMANDS, main

README = (Path(__file__).parents[1] / "README.md").read_text()
SHORT = ("steps=2", "model.depth=3", "model.width=8", "replicas=2", "batch_size=16")
MAKE_TARGETS = re.findall(r"^([a-z]+):", (Path(__file__).parents[1] / "Makefile").read_text(), re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@pytest.mark.slow
def test_every_command_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda path, words: sys.exit(f"{words[3]} instead of this process"))
    random = np.random.default_rng(0)
    np.savez("mine.npz", x_train=random.normal(size=(60, 5)), y_train=np.arange(60) % 3)
    for program, *words in commands():
        if program == "make":
            assert words[0] in MAKE_TARGETS
        elif words[0] == "run":
            swept = [word.partition("=")[0] for word in words if "," in word]
            extra = [word for word in SHORT if word.partition("=")[0] not in swept]
            own = [] if any(word.startswith("output_dir=") for word in words) else [f"output_dir=runs/{len(started)}"]
            started.append(words)
            assert main([*words, *extra, *own]) == 0
        elif words[0] == "board":
            with pytest.raises(SystemExit, match="--logdir=runs instead"):
                main(words)
        else:
            assert program == "gradlab"
            assert main(words) == 0
    assert len(started) >= 6
    assert len(list(Path("runs/sweep").glob("activation=*/readings.nc"))) == 8
    assert Path("runs/sweep/collected.nc").is_file()
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_the_readme_names_every_option_of_every_group():
    from lab import schema

    for group, options in schema.CHOICES.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group}` |"))
        assert set(options) <= set(re.findall(r"[a-z_]+", row)), group


def test_the_readme_shows_every_command_there_is():
    shown = {words[0] for program, *words in commands() if program == "gradlab"}
    assert shown == set(COMMANDS)


def test_the_pictures_of_the_readme_and_the_docs_exist():
    root = Path(__file__).parents[1]
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
