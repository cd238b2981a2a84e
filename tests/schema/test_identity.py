"""The fingerprint of a run."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from lab import schema
from lab.compose import compose
from lab.schema import fingerprint

RICH = schema.Config(
    activation=schema.Swish("swish"),
    init=schema.Gaussian("gaussian"),
    norm=schema.BatchNorm("batch"),
    residual=schema.ScaledResidual("scaled"),
    clip=schema.ClipAdaptive("adaptive"),
    optimizer=schema.RMSprop("rmsprop"),
    data=schema.Spirals("spirals"),
    model=schema.Model(block="ffn", expansion=4.0),
)
"""A configuration with as many keys as one can have."""


@pytest.mark.parametrize("key", [part.name for part in fields(schema.Config)])
def test_the_fingerprint_tells_all_that_decides_the_result_and_nothing_else(key: str):
    where_and_how = {"device", "threads", "output_dir", "overwrite", "checkpoint", "runs_per_gpu"}
    for name, changed in changes(RICH, key):
        assert (fingerprint(changed) == fingerprint(RICH)) == (key in where_and_how), name


def test_a_fingerprint_does_not_depend_on_how_the_values_were_given():
    plain = fingerprint(compose(["optimizer.lr=1", "model.depth=5"]))
    assert plain == fingerprint(compose(["model={depth: 5}", "optimizer.lr=1.0", "seed=0", "output_dir=x"]))


def test_fingerprints_stay_as_they_are_from_release_to_release():
    assert fingerprint(schema.Config()) == "b6a31e62b278ac61"
    assert fingerprint(RICH) == "9796d8181d3c8ccc"


def changes(config: schema.Config, key: str) -> Iterator[tuple[str, schema.Config]]:
    """The configuration with one value below `key` changed, for each such value."""
    value: Any = getattr(config, key)
    names = [part.name for part in fields(value)] if is_dataclass(value) else []
    for name in names:
        changed: dict[str, Any] = {key: replace(value, **{name: other(getattr(value, name))})}
        yield f"{key}.{name}", replace(config, **changed)
    if not names:
        changed = {key: other(value)}
        yield key, replace(config, **changed)


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + (1 if isinstance(value, int | float) else "x")
