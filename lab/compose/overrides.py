"""Parsing overrides by Hydra's grammar, and the runs of a sweep."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString, RangeSweep

from lab.compose import untrusted
from lab.compose.config_store import HYDRA_ERRORS
from lab.schema import ConfigError

HOME = re.compile(r"""(\+{0,2}output_dir=)(['"]?)(~[^'",]*)\2""")
"""An output folder that begins with the home folder."""


def expand_home(overrides: Sequence[str]) -> list[str]:
    """The overrides with the home folder in place of the ~ that output_dir begins with; a shell may leave it there.

    Raises:
        ConfigError: one that cannot be read, or may not be given.
    """
    expanded = []
    for text in overrides:
        if found := HOME.fullmatch(text):
            text = found[1] + QuotedString(os.path.expanduser(found[3]), Quote.single).with_quotes()
        expanded.append(text)
    parse(expanded)
    return expanded


def parse(overrides: Sequence[str]) -> list[Override]:
    """Read overrides by Hydra's grammar.

    Raises:
        ConfigError: one that cannot be read, or may not be given.
    """
    parsed = []
    for text in overrides:
        untrusted.check_text(text)
        try:
            [override] = OverridesParser.create().parse_overrides([text])
            if not override.key_or_group:
                raise ValueError("It has no key.")
        except HYDRA_ERRORS as error:
            raise ConfigError(
                f"{text}: this override cannot be read; write key=value, with quotes around a value that holds spaces,"
                " brackets or an equals sign."
            ) from error
        key = override.get_key_element().lstrip("+~")
        untrusted.check_override(text, key, override._value, override.is_delete())
        parsed.append(override)
    return parsed


def jobs_of_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of the swept values, in the order in which Hydra's sweeper runs them.

    Raises:
        ConfigError: an override that cannot be read or swept over, or more runs than anybody waits for.
    """
    alternatives = []
    for override in parse(overrides):
        if override.is_sweep_override():
            alternatives.append([f"{override.get_key_element()}={value}" for value in _swept_values(override)])
        else:
            alternatives.append([override.input_line or ""])
        untrusted.runs_of([len(values) for values in alternatives])
    return [list(job) for job in itertools.product(*alternatives)]


def _swept_values(override: Override) -> list[str]:
    value = override.value()
    if not override.is_discrete_sweep() or isinstance(value, Glob):
        raise ConfigError(f"{override.input_line}: only choices and ranges can be swept; list the values instead.")
    try:
        if isinstance(value, RangeSweep):  # counted first: it may be endless, and a shuffled one is held whole
            untrusted.runs_of([sum(1 for _ in itertools.islice(value.range(), untrusted.MOST_RUNS + 1))])
        found = list(override.sweep_string_iterator())
    except ConfigError:
        raise
    except (*HYDRA_ERRORS, ArithmeticError) as error:
        raise ConfigError(f"{override.input_line}: these values cannot be listed; list them yourself.") from error
    if not found:
        raise ConfigError(f"{override.input_line}: there is no value in it; give at least one.")
    return found


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The keys that these overrides give several values to."""
    return [override.key_or_group for override in parse(overrides) if override.is_sweep_override()]
