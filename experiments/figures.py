"""`gradlab figures`: every activation with its derivative, and GELU by hand against torch's, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from experiments.arguments import Parser, writing_to
from lab.schema import ConfigError

ACTIVATIONS, GELU = "activations.png", "gelu.png"


def main(arguments: Sequence[str]) -> int:
    """Draw both pictures into a folder, and print the largest differences of GELU's forms and where they occur.

    Raises:
        ConfigError: a flag or a folder that cannot be used; nothing has been written then.
    """
    parser = Parser(
        "gradlab figures",
        description=f"Draw all activations with their derivatives ({ACTIVATIONS}), and both forms of GELU against"
        f" torch's ({GELU}).",
    )
    parser.add_argument("--folder", default="figures", metavar="DIR", help="where to (default: figures)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing pictures")
    options = parser.parse_args(list(arguments))
    folder = Path(options.folder)
    for name in (ACTIVATIONS, GELU):
        if (folder / name).exists() and not options.overwrite:
            taken = f"this folder holds {name} already; choose another, or add --overwrite."
            raise ConfigError(f"--folder={folder}: {taken}")
    with writing_to(folder, "--folder="):
        folder.mkdir(parents=True, exist_ok=True)
        _draw(folder)
    return 0


def _draw(folder: Path) -> None:
    import torch.nn.functional as F
    from torch import from_numpy

    from experiments.claims.gelu_comparison import compare, grid
    from lab.machine.files import atomic_write
    from lab.plot import activations, gelu, style

    x = grid()
    differences = compare(x)
    exact, approximate = (F.gelu(from_numpy(x), approximate=form).numpy() for form in ("none", "tanh"))
    # The two forms differ by the same in both formats: one panel is enough.
    shown = [row for row in differences if (row.first, row.format) != ("torch's tanh form", "float32")]
    pictures = {ACTIVATIONS: activations.draw(), GELU: gelu.draw(x, exact, approximate, shown)}
    with ExitStack() as drafts:
        for name, picture in pictures.items():
            style.save(picture, drafts.enter_context(atomic_write(folder / name)))
    print(*(folder / name for name in pictures), sep="\n")
    print(f"GELU from {x.min():g} to {x.max():g}, largest differences:")
    for row in differences:
        largest, place = row.largest
        print(f"  {row.first:<17} minus {row.second:<17}  {row.format}  {largest:9.3e} at x = {place:.5g}")
