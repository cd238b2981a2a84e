"""`gradlab figures`: every activation with its derivative, and GELU by hand against torch's, as pictures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.arguments import Parser
from lab.schema import ConfigError

if TYPE_CHECKING:
    from lab.plot.gelu import GeluDifference

ACTIVATIONS, GELU = "activations.png", "gelu.png"


def main(arguments: Sequence[str]) -> int:
    """Draw both pictures into a folder, and print the largest differences of GELU's forms and where they occur.

    Raises:
        ConfigError: a flag or a folder that cannot be used; nothing has been written then.
    """
    options = _parse(arguments)
    folder = Path(options.folder)
    _refuse(folder, options.overwrite)
    import numpy as np
    import torch.nn.functional as F
    from torch import from_numpy

    from experiments.claims.gelu_comparison import compare, grid
    from lab.machine.files import atomic_write
    from lab.plot import activations, gelu
    from lab.plot.style import save

    x = grid()
    comparisons = compare(x)
    exact, approximate = (F.gelu(from_numpy(x), approximate=form).numpy() for form in ("none", "tanh"))
    shown = [comparison for comparison in comparisons if not _is_repeated(comparison)]
    pictures = {ACTIVATIONS: activations.draw(), GELU: gelu.draw(x, exact, approximate, shown)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as drafts:
            for name, picture in pictures.items():
                save(picture, drafts.enter_context(atomic_write(folder / name)))
    except OSError as error:
        raise ConfigError(f"--folder={folder}: a picture cannot be written there ({error}); choose another.") from error
    for name in pictures:
        print(folder / name)
    print(f"GELU from {np.min(x):g} to {np.max(x):g}, largest differences:")
    for comparison in comparisons:
        largest, where = comparison.largest
        print(
            f"  {comparison.first:<17} minus {comparison.second:<17}  {comparison.format}  {largest:9.3e} at x ="
            f" {where:.5g}"
        )
    return 0


def _is_repeated(comparison: GeluDifference) -> bool:
    """The forms differ by the same in both formats: one panel will do."""
    return comparison.first == "torch's tanh form" and comparison.format == "float32"


def _refuse(folder: Path, may_overwrite: bool) -> None:
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"--folder={folder}: {above} is no folder that can be written in; choose another.")
    for path in (folder / ACTIVATIONS, folder / GELU):
        if path.exists() and not path.is_file():
            raise ConfigError(f"--folder={folder}: {path.name} in it is no file; choose another folder.")
        if path.exists() and not may_overwrite:
            raise ConfigError(
                f"--folder={folder}: this folder holds {path.name} already; choose another, or add --overwrite."
            )


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "gradlab figures",
        description=f"Draw all activations with their derivatives ({ACTIVATIONS}), and both forms of GELU against"
        f" torch's ({GELU}).",
    )
    parser.add_argument("--folder", default="figures", metavar="DIR", help="where to (default: figures)")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that are there already")
    options = parser.parse_args(list(arguments))
    if not options.folder:
        raise ConfigError("--folder: it is empty; name a folder, for example --folder=figures.")
    return options
