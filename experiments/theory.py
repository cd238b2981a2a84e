"""`gradlab theory`: what mean-field theory expects of a configuration, without training anything."""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.arguments import Parser
from lab.schema import LARGEST, Config, ConfigError, LayerNorm, flatten

if TYPE_CHECKING:
    from rich.table import Table

    from lab.theory.report.report import TheoryReport

FILE = "theory.json"
MOST_ROWS = 24
"""Layers that the table shows at most, but for the last; the file holds all."""
USUAL, WIDE = 70, 95
"""Columns of a terminal from which on the table has more columns of its own."""

SCALARS = {
    "q_star": "limit of q, the pre-activations' variance",
    "chi": "squared gradient of a layer over the next one's",
    "phase": "chi below 1: vanishing, above: exploding",
    "weight_var": "fan_in times a weight's variance",
    "bias_var": "a bias's variance",
    "critical_weight_var": "weight_var with chi = 1, all else equal",
    "xi_q": "layers: q comes closer to q_star by e",
    "xi_c": "layers: so does two inputs' correlation",
    "xi_grad": "layers: squared gradients change by e",
    "trainable_depth": "layers: 6 xi_c, or 6 xi_grad if less",
    "delta_slope": "decades a layer towards the loss; + vanishing",
}
"""Name in table and file -> what it is."""

EPILOG = f"""\
Layer 0 is nearest the input. delta is delta_rms, rms dL/dz, over that of the
last layer; so is weight_grad_norm. {FILE} in output_dir, by default
runs/DATE_TIME, has all layers. In it null is what has no value, and "reasons"
says why under the same name; "infinity" and "-infinity" are texts, as JSON has
no such numbers; log10_delta holds what is too small or too large for delta.

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

    if options.config_dir and not Path(options.config_dir).is_dir():
        raise ConfigError(
            f"--config-dir={options.config_dir}: there is no such folder; give the one above experiment/."
        )
    searched = [f"hydra.searchpath=[file://{Path(options.config_dir).absolute()}]"] if options.config_dir else []
    if swept := compose.swept_keys(options.overrides):
        raise ConfigError(f"{swept[0]}: gradlab theory is about one configuration; give one value.")
    config, folder = compose.compose_job([*searched, *options.overrides])
    _check_features(config, options.features)
    from lab.theory import resolve_critical
    from lab.theory.report.report import report

    found = report(resolve_critical(config), options.input_q, options.features)
    text = json.dumps(as_dict(config, found), indent=2, allow_nan=False) + "\n"
    if options.json:
        print(text, end="")
        return 0
    path = folder / FILE
    _write(path, text, config.overwrite)
    _show(config, found, path)
    return 0


def as_dict(config: Config, found: TheoryReport) -> dict[str, Any]:
    """What the file holds, in types that JSON has."""
    from lab import __version__

    return {
        "gradlab": __version__,
        "config": {key: _plain(value) for key, value in flatten(asdict(config)).items()},
        **{name: _plain(value) for name, value in scalars(found).items()},
        "variance": found.scales.variance if found.scales else None,
        "down_weight_var": found.down.weight_var if found.down else None,
        "down_bias_var": found.down.bias_var if found.down else None,
        "input_q": found.input_q,
        "fate": found.fate,
        "advice": found.advice,
        "remedy": list(found.remedy),
        "reasons": dict(found.reasons),
        "assumptions": list(found.assumptions),
        "layers": None if found.layers is None else list(_layers(found)),
    }


def scalars(found: TheoryReport) -> dict[str, Any]:
    """The numbers of `SCALARS`, NaN or None where there is none."""
    values: dict[str, Any] = dict.fromkeys(SCALARS)
    if found.scales is not None:
        values |= {name: value for name, value in asdict(found.scales).items() if name in SCALARS}
    values |= {"weight_var": found.up.weight_var, "bias_var": found.up.bias_var}
    return values | {"critical_weight_var": found.critical_weight_var, "delta_slope": found.delta_slope}


def _layers(found: TheoryReport) -> Iterator[dict[str, Any]]:
    import numpy as np

    layers = found.layers
    assert layers is not None
    logs = {
        "delta": layers.log_delta,
        "delta_lower": layers.log_delta_band.lower,
        "delta_upper": layers.log_delta_band.upper,
        "weight_grad_norm": layers.log_weight_grad_norm,
    }
    with np.errstate(over="ignore"):
        columns = {"q": layers.q} | {name: np.exp(log) for name, log in logs.items()}
    columns |= {f"log10_{name}": log / math.log(10) for name, log in logs.items() if name.startswith("delta")}
    columns |= {"pre_rms": np.sqrt(layers.q), "pre_rms_lower": layers.pre_rms.lower}
    columns |= {"pre_rms_upper": layers.pre_rms.upper, "act_rms": layers.act_rms}
    for layer, values in enumerate(zip(*(column.tolist() for column in columns.values()), strict=True)):
        yield {"layer": layer} | {name: _plain(value) for name, value in zip(columns, values, strict=True)}


def _plain(value: Any) -> Any:
    """NaN as null and infinity as a text, which strict JSON can hold."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else "infinity" if value > 0 else "-infinity"


def _write(path: Path, text: str, may_overwrite: bool) -> None:
    """Write the file, unless another one of this name is there already."""
    from lab.machine.files import atomic_write, refuse_to_write

    refuse_to_write(path.parent)  # a run may lie there: the prediction belongs beside it
    if path.exists() and not path.is_file():
        raise ConfigError(f"output_dir={path.parent}: {FILE} in it is no file; choose another folder.")
    if path.exists() and not may_overwrite and path.read_bytes() != text.encode():
        raise ConfigError(
            f"output_dir={path.parent}: this folder holds another {FILE} already; choose another, or add"
            " overwrite=true."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as draft:
            draft.write_text(text)
    except OSError as error:
        raise ConfigError(
            f"output_dir={path.parent}: {FILE} cannot be written there ({error}); choose another."
        ) from error


# --- in a terminal --------------------------------------------------------------------------------------------------


def _show(config: Config, found: TheoryReport, path: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lab.theory.report.words import number

    console = Console()

    def say(text: str) -> None:
        console.print(Text(text))

    model = config.model
    layers = f"{model.depth} hidden layer{'s' if model.depth > 1 else ''} of {model.width}"
    say(f"Theory of {layers}: {_description(config)}")
    if found.layers is not None:
        end = f", layer {model.depth - 1} nearest the loss" if model.depth > 1 else ""
        console.print(_layer_table(found, console.width))
        say(
            f"Layer 0 is nearest the input{end}. q: variance of the"
            " pre-activations. delta: rms gradient dL/dz over the last layer's; its band: where to expect it at this"
            " width. No units."
        )
    numbers = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for name, value in scalars(found).items():
        text = value if isinstance(value, str) else number(math.nan if value is None else value)
        numbers.add_row(name, text, SCALARS[name])
    console.print("", numbers, "")
    for reason, names in _grouped(found.reasons).items():
        say(f"No {', '.join(names)}: {reason}")
    say("This rests on:")
    bullets = Table.grid(padding=(0, 1, 0, 0))
    for assumption in found.assumptions:
        bullets.add_row("-", Text(assumption))
    console.print(bullets, "")
    for sentence in filter(None, (found.fate, found.advice)):
        say(sentence)
    console.print(Text(str(path)), soft_wrap=True)


def _description(config: Config) -> str:
    """The choices that theory looks at."""
    words = [config.activation.name, f"init={config.init.name}"]
    words += [f"norm={config.norm.name} ({config.norm.place})"] if isinstance(config.norm, LayerNorm) else []
    words += [f"residual={config.residual.name}"] if config.residual.name != "none" else []
    return ", ".join(words + (["ffn blocks"] if config.model.block == "ffn" else []))


def _layer_table(found: TheoryReport, width: int) -> Table:
    """Every layer, or about `MOST_ROWS` at round distances and the last; columns as there is room."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from lab.theory.report.words import number, power_of_ten

    layers = found.layers
    assert layers is not None
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    columns = {
        "layer": 0,
        "q": 0,
        "pre_rms": WIDE,
        "act_rms": USUAL,
        "delta": 0,
        "band of delta": 0,
        "weight_grad_norm": WIDE,
    }
    for name in columns:
        if width >= columns[name]:
            table.add_column(name, justify="right", no_wrap=True)
    depth = len(layers.q)
    step = next(step for step in _round_steps() if depth <= MOST_ROWS * step)
    for layer in sorted({*range(0, depth, step), depth - 1}):
        log10 = [
            float(logs[layer]) / math.log(10)
            for logs in (layers.log_delta, *layers.log_delta_band, layers.log_weight_grad_norm)
        ]
        delta, lower, upper, weight_grad_norm = (power_of_ten(value) for value in log10)
        cells = {
            "layer": str(layer),
            "q": number(float(layers.q[layer])),
            "pre_rms": number(math.sqrt(layers.q[layer])),
            "act_rms": number(float(layers.act_rms[layer])),
            "delta": delta,
            "band of delta": f"{lower} to {upper}",
            "weight_grad_norm": weight_grad_norm,
        }
        table.add_row(*(cells[name] for name in columns if width >= columns[name]))
    return table


def _round_steps() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50 and so on."""
    return (unit * 10**power for power in itertools.count() for unit in (1, 2, 5))


def _grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Sentence -> the names it stands for."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return groups


# --- the command line -----------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "gradlab theory",
        description="What mean-field theory expects of a configuration at initialization, without training anything.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="key=value, as for gradlab run")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON and write nothing")
    parser.add_argument(
        "--input-q",
        metavar="Q",
        help="mean square of the inputs (default: data.variance for data=gaussian, 0.9375 for data=digits, where 4 of"
        " 64 pixels never change, else 1, because the lab standardizes)",
    )
    parser.add_argument("--features", metavar="N", help="size of an input, which only data=npz leaves open")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with experiments of your own")
    options, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such flag; write key=value, or see gradlab theory --help.")
    if options.input_q is not None:
        options.input_q = _number("--input-q", options.input_q, float)
    if options.features is not None:
        options.features = _number("--features", options.features, int)
    return options


def _number(flag: str, text: str, kind: type[int] | type[float]) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value <= LARGEST:  # NaN is neither
        what = "whole number" if kind is int else "number"
        raise ConfigError(f"{flag}={text}: give a {what} above 0 and at most {LARGEST:g}.")
    return value


def _check_features(config: Config, features: int | None) -> None:
    from lab.theory.deep.maps import data_features

    known = data_features(config)
    if features is not None and known is not None:
        raise ConfigError(
            f"--features={features}: data={config.data.name} has {known} features; leave the flag out, or"
            " choose data=npz."
        )
