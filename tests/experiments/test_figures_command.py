"""`gradlab figures`: pictures of every activation, GELU's largest differences, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import imread

from experiments import figures
from tests.conftest import Command

PICTURES = ["activations.png", "gelu.png"]


def test_it_draws_both_pictures_and_says_where_gelu_differs_most(gradlab: Command, tmp_path: Path):
    done = gradlab("figures")
    assert (done.status, done.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == PICTURES
    for name in PICTURES:
        pixels = imread(tmp_path / "figures" / name)
        assert min(pixels.shape[:2]) > 1000
        assert 0.02 < float((pixels[..., :3].min(-1) < 0.9).mean()) < 0.5  # neither blank nor black
    rows = re.findall(r"^  (\S.*\S) +minus (\S.*\S) +(float32|float64) +(\S+) at x = (\S+)$", done.out, re.MULTILINE)
    assert [row[:2] for row in rows[::2]] == [row[:2] for row in rows[1::2]]
    assert len(rows) == 6
    for first, second, name, largest, where in rows:
        dtype, x = getattr(torch, name), float(where)
        at_x = torch.full((64,), x, dtype=dtype)
        if "by hand" in first:  # rounding, a handful of units in the last place
            assert 0 < float(largest) <= 8 * torch.finfo(dtype).eps * max(1.0, abs(x))
        else:  # x is printed with 5 digits, and the curve is flat there
            apart = (by_name(first, at_x) - by_name(second, at_x)).abs().max().item()
            assert float(largest) == pytest.approx(apart, rel=2e-3)
            assert float(largest) == pytest.approx(4.732e-4, rel=1e-3)
            assert abs(x) == pytest.approx(2.699, abs=0.02)


def by_name(name: str, x: torch.Tensor) -> torch.Tensor:
    """GELU in the form that is named, as torch has it."""
    return F.gelu(x, approximate="tanh" if "tanh" in name else "none")


def test_pictures_are_overwritten_only_if_told_to(gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def draw(folder: Path) -> None:
        (folder / "gelu.png").write_text("new")

    monkeypatch.setattr(figures, "_draw", draw)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "gelu.png").write_text("mine")
    done = gradlab("figures")
    assert (done.status, done.out) == (2, "")
    assert done.err == ("--folder=figures: this folder holds gelu.png already; choose another, or add --overwrite.\n")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["gelu.png"]
    assert (tmp_path / "figures" / "gelu.png").read_text() == "mine"
    assert gradlab("figures", "--folder", "figures", "--overwrite").status == 0
    assert (tmp_path / "figures" / "gelu.png").read_text() == "new"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--folder", "file"], "--folder=file: cannot be written to ("),
        (["--folder", "file/below"], "--folder=file/below: "),
        (["--folder", "taken"], "--folder=taken: this folder holds gelu.png already; "),
        (["--fold", "x"], "Unrecognized arguments: --fold x; see gradlab figures --help."),
        (["--folder"], "Argument --folder: expected one argument; see gradlab figures --help."),
        (["activation=tanh"], "Unrecognized arguments: activation=tanh; see gradlab figures --help."),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(gradlab: Command, tmp_path: Path, words, sentence):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "gelu.png").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = gradlab("figures", *words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(sentence)
    assert done.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
