"""`gradlab theory`: the prediction of mean-field theory for a configuration, without training anything."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.arguments import Parser
from lab.schema import LARGEST, Config, ConfigError, LayerNorm, flatten

if TYPE_CHECKING:
    from rich.table import Table

    from lab.theory.report.report import Layers, TheoryReport
    from lab.typing import Array

FILE = "theory.json"
MOST_ROWS = 24  # layers in the table at most, besides the last; the file has all
LEAST_WIDTHS = {
    "layer": 0,
    "q": 0,
    "pre_rms": 95,
    "act_rms": 70,
    "delta": 0,
    "band of delta": 0,
    "weight_grad_norm": 95,
}
"""Column of the table -> columns that a terminal needs for it to be shown."""

SCALARS = {
    "q_star": "limit of q, the pre-activations' variance",
    "chi": "squared gradient of a layer over the next one's",
    "phase": "chi below 1: vanishing, above: exploding",
    "weight_var": "fan_in times a weight's variance",
    "bias_var": "a bias's variance",
    "critical_weight_var": "weight_var with chi = 1, all else equal",
    "xi_q": "layers: q approaches q_star by a factor of e",
    "xi_c": "layers: the same for two inputs' correlation",
    "xi_grad": "layers: squared gradients change by e",
    "trainable_depth": "layers: 6 xi_c, or 6 xi_grad if less",
    "delta_slope": "decades per layer to the loss; + vanishing",
}
"""Name in table and file -> meaning."""

EPILOG = f"""\
Layer 0 is nearest the input. delta is delta_rms, rms dL/dz, over that of the
last layer; so is weight_grad_norm. {FILE} in output_dir, by default
runs/DATE_TIME, has all layers. There null means that there is no value, and
"reasons" says why under the same name; "infinity" and "-infinity" are strings,
since JSON has no such numbers; log10_delta holds what overflows or underflows
delta.

examples:
  gradlab theory activation=tanh init=gaussian init.weight_var=1.3 model.depth=50
  gradlab theory activation=gelu norm=layer norm.place=pre residual=identity
  gradlab theory +experiment=sigmoid_vanishes --json
"""


def main(arguments: Sequence[str]) -> int:
    """Print table, numbers and reasons, and write them to theory.json; or print them as JSON and write nothing.

    Raises:
        ConfigError: a flag, an override, a combination or a folder that cannot be used; nothing has been written then.
    """
    options = _parse(arguments)
    from lab import compose

    searched, config_dir = [], options.config_dir
    if config_dir:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir={config_dir}: there is no such folder; give the one above experiment/.")
        searched = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"]
    if swept := compose.swept_keys(options.overrides):
        raise ConfigError(f"{swept[0]}: gradlab theory is about one configuration; give one value.")
    config, folder = compose.compose_job([*searched, *options.overrides])

    from lab.theory import resolve_critical
    from lab.theory.deep.maps import data_features
    from lab.theory.report.report import report

    features = data_features(config)
    if options.features is not None and features is not None:
        why = f"data={config.data.name} has {features} features; leave the flag out, or choose data=npz."
        raise ConfigError(f"--features={options.features}: {why}")
    answer = report(resolve_critical(config), options.input_q, options.features)
    text = json.dumps(_strict(as_dict(config, answer)), indent=2, allow_nan=False) + "\n"
    if options.json:
        print(text, end="")
        return 0
    _write(folder / FILE, text, config.overwrite)
    _print(config, answer, folder / FILE)
    return 0


def as_dict(config: Config, answer: TheoryReport) -> dict[str, Any]:
    """Return the content of the file."""
    from lab import __version__

    layers = None
    if answer.layers is not None:
        columns = layer_columns(answer.layers)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        layers = [dict(zip(columns, row, strict=True)) for row in rows]
    return {
        "gradlab": __version__,
        "config": flatten(asdict(config)),
        **scalars(answer),
        "variance": answer.scales.variance if answer.scales else None,
        "down_weight_var": answer.down.weight_var if answer.down else None,
        "down_bias_var": answer.down.bias_var if answer.down else None,
        **{name: getattr(answer, name) for name in ("input_q", "fate", "advice", "remedy", "reasons", "assumptions")},
        "layers": layers,
    }


def scalars(answer: TheoryReport) -> dict[str, Any]:
    """Return the numbers of `SCALARS`, NaN or None where there is none."""
    values = vars(answer) | answer.up._asdict() | (vars(answer.scales) if answer.scales else {})
    return {name: values.get(name) for name in SCALARS}


def layer_columns(layers: Layers) -> dict[str, Array]:
    """Return the columns of the file, (depth,) each."""
    import numpy as np

    (lower, upper), (pre_lower, pre_upper) = layers.log_delta_band, layers.pre_rms
    logs = {"delta": layers.log_delta, "delta_lower": lower, "delta_upper": upper}
    logs["weight_grad_norm"] = layers.log_weight_grad_norm
    with np.errstate(over="ignore"):
        columns = {
            "layer": np.arange(len(layers.q)),
            "q": layers.q,
            **{name: np.exp(log) for name, log in logs.items()},
        }
    columns |= {f"log10_{name}": log / math.log(10) for name, log in logs.items()}
    columns |= {"pre_rms": np.sqrt(layers.q), "pre_rms_lower": pre_lower, "pre_rms_upper": pre_upper}
    return columns | {"act_rms": layers.act_rms}


def _strict(value: Any) -> Any:
    """Replace NaN by None and infinity by a string, for strict JSON."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else "infinity" if value > 0 else "-infinity"


def _write(path: Path, text: str, may_overwrite: bool) -> None:
    from lab.machine.files import atomic_write, refuse_to_write

    folder = path.parent
    refuse_to_write(folder)
    if path.exists() and not may_overwrite and path.read_bytes() != text.encode():
        taken = f"this folder holds another {FILE} already; choose another, or add overwrite=true."
        raise ConfigError(f"output_dir={folder}: {taken}")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft:
        draft.write_text(text)


def _print(config: Config, answer: TheoryReport, path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from lab.theory.report.words import number

    console = Console(markup=False, highlight=False, emoji=False)
    depth = config.model.depth
    layers = f"{depth} hidden layer{'s' if depth > 1 else ''} of {config.model.width}"
    console.print(f"Theory of {layers}: {_description(config)}")
    if answer.layers is not None:
        console.print(_layer_table(answer.layers, console.width))
        end = f", layer {depth - 1} nearest the loss" if depth > 1 else ""
        console.print(
            f"Layer 0 is nearest the input{end}. q: variance of the pre-activations. delta: rms gradient dL/dz over"
            " that of the last layer; its band: the range expected at this width. No units."
        )
    numbers = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for name, value in scalars(answer).items():
        text = value if isinstance(value, str) else number(math.nan if value is None else value)
        numbers.add_row(name, text, SCALARS[name])
    console.print("", numbers, "")
    for reason in dict.fromkeys(answer.reasons.values()):
        names = [name for name, other in answer.reasons.items() if other == reason]
        console.print(f"No {', '.join(names)}: {reason}")
    bullets = Table.grid(padding=(0, 1, 0, 0))
    for assumption in answer.assumptions:
        bullets.add_row("-", assumption)
    console.print("Assumptions:", bullets, "")
    for sentences in filter(None, (answer.fate, answer.advice)):
        console.print(sentences)
    console.print(str(path), soft_wrap=True)


def _description(config: Config) -> str:
    words = [config.activation.name, f"init={config.init.name}"]
    words += [f"norm={config.norm.name} ({config.norm.place})"] if isinstance(config.norm, LayerNorm) else []
    words += [f"residual={config.residual.name}"] if config.residual.name != "none" else []
    return ", ".join(words + (["ffn blocks"] if config.model.block == "ffn" else []))


def _layer_table(layers: Layers, width: int) -> Table:
    """Return the table of all layers, or of at most `MOST_ROWS` equally spaced ones and the last."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from lab.theory.report.words import number, power_of_ten

    columns, depth = layer_columns(layers), len(layers.q)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    shown = [name for name, least in LEAST_WIDTHS.items() if width >= least]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for layer in sorted({*range(0, depth, math.ceil(depth / MOST_ROWS)), depth - 1}):
        row = {name: float(column[layer]) for name, column in columns.items()}
        powers = {name.removeprefix("log10_"): power_of_ten(value) for name, value in row.items() if "log10_" in name}
        cells = {name: number(value) for name, value in row.items()} | powers | {"layer": str(layer)}
        cells["band of delta"] = f"{powers['delta_lower']} to {powers['delta_upper']}"
        table.add_row(*(cells[name] for name in shown))
    return table


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "gradlab theory",
        description="Predict every layer's signal and gradient at initialization by mean-field theory.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as for gradlab run")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON and write nothing")
    parser.add_argument(
        "--input-q",
        type=float,
        metavar="Q",
        help="mean square of the inputs (default: data.variance for data=gaussian, 0.9375 for data=digits, where 4 of"
        " 64 pixels never change, else 1, because the lab standardizes)",
    )
    parser.add_argument("--features", type=int, metavar="N", help="features of an input, for data=npz only")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with your own experiments")
    options = parser.parse_intermixed_args(list(arguments))
    for flag, value in (("--input-q", options.input_q), ("--features", options.features)):
        if value is not None and not 0 < value <= LARGEST:  # refuses NaN, too
            raise ConfigError(f"{flag}={value:g}: give a number above 0 and at most {LARGEST:g}.")
    return options
