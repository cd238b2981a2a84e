"""Overrides by Hydra's grammar, and the runs of a sweep."""

import itertools
import math
import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString, RangeSweep

from lab.compose.config_store import HYDRA_ERRORS
from lab.schema import ConfigError

HOME = re.compile(r"""^(\+{0,2}output_dir=)(['"]?)(~[^'",]*)\2\Z""")
"""An output folder that begins with the home folder; a shell expands ~ only at the beginning of a word."""

MOST_RUNS = 10_000
"""Runs of a sweep; more are a mistake."""


def parse(overrides: Sequence[str]) -> list[Override]:
    """Read overrides by Hydra's grammar.

    Raises:
        ConfigError: an override that cannot be read, deletes something, or sets a folder past output_dir.
    """
    parsed = []
    for text in overrides:
        try:
            [override] = OverridesParser.create().parse_overrides([text])
            if not override.key_or_group:
                raise ValueError("It has no key.")
        except (*HYDRA_ERRORS, RecursionError) as error:
            remedy = "write key=value, with quotes around a value that holds spaces, brackets or an equals sign"
            raise ConfigError(f"{text}: this override cannot be read; {remedy}.") from error
        key = override.key_or_group
        if override.is_delete():
            raise ConfigError(f"{text}: nothing can be taken out of a configuration; choose another value for {key}.")
        if key in ("hydra.run.dir", "hydra.sweep.dir"):
            raise ConfigError(f"{key}: the folder of runs is set by output_dir; give output_dir=FOLDER instead.")
        parsed.append(override)
    return parsed


def expand_home(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with the home folder in place of a ~ that output_dir begins with.

    Raises:
        ConfigError: as `parse`.
    """

    def expand(match: re.Match[str]) -> str:
        return match[1] + QuotedString(os.path.expanduser(match[3]), Quote.single).with_quotes()

    expanded = [HOME.sub(expand, text) for text in overrides]
    parse(expanded)
    return expanded


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """Return the keys that these overrides give several values to."""
    return [override.key_or_group for override in parse(overrides) if override.is_sweep_override()]


def jobs_of_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Return every combination of the swept values, in the order in which Hydra's sweeper runs them.

    Raises:
        ConfigError: an override that cannot be read or swept over, or more than `MOST_RUNS` runs.
    """
    alternatives = []
    for override in parse(overrides):
        key, is_swept = override.get_key_element(), override.is_sweep_override()
        alternatives.append(
            [f"{key}={x}" for x in _swept_values(override)] if is_swept else [override.input_line or ""]
        )
    _check_count(math.prod(map(len, alternatives)))
    return [list(job) for job in itertools.product(*alternatives)]


def _swept_values(override: Override) -> list[str]:
    value = override.value()
    if not override.is_discrete_sweep() or isinstance(value, Glob):
        raise ConfigError(f"{override.input_line}: only choices and ranges can be swept; list the values instead.")
    try:
        if isinstance(value, RangeSweep):  # counted first: it may be endless
            _check_count(sum(1 for _ in itertools.islice(value.range(), MOST_RUNS + 1)))
        values = list(override.sweep_string_iterator())
    except ConfigError:
        raise
    except (*HYDRA_ERRORS, ArithmeticError) as error:
        raise ConfigError(f"{override.input_line}: these values cannot be listed; list them yourself.") from error
    if not values:
        raise ConfigError(f"{override.input_line}: there is no value in it; give at least one.")
    return values


def _check_count(runs: int) -> None:
    if runs > MOST_RUNS:
        raise ConfigError(f"-m: this sweep has more than {MOST_RUNS} runs; sweep over fewer values at a time.")
