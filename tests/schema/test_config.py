"""The tables of options, and options of the user's own."""

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import schema
from lab.compose import compose
from lab.schema import Activation, ConfigError, Model, as_dict, from_dict, register_option

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Sine(Activation):
    frequency: float = schema.fields.number(1.0, above=0)


@pytest.fixture
def sine() -> Iterator[None]:
    register_option("activation", "sine", Sine)
    yield
    del schema.ACTIVATIONS["sine"]


@pytest.mark.usefixtures("sine")
def test_a_registered_option_is_chosen_like_any_other():
    config = compose(["activation=sine", "activation.frequency=3"])
    assert config.activation == Sine("sine", 3.0)
    assert from_dict(as_dict(config)) == config
    register_option("activation", "sine", Sine)  # again: nothing happens
    with pytest.raises(ConfigError, match=r"^activation\.frequency=-1\.0: give a number above 0\.$"):
        compose(["activation=sine", "activation.frequency=-1"])
    with pytest.raises(ConfigError, match=r"^activation\.frequency: .*choose activation=sine"):
        compose(["activation.frequency=1"])


def test_an_option_that_is_no_longer_registered_is_refused():
    with pytest.raises(ConfigError, match=r"^activation=sine: there is no such option"):
        compose(["activation=sine"])


@pytest.mark.parametrize(
    ("group", "name", "options", "error"),
    [
        ("activations", "sine", Sine, ValueError),
        ("activation", "relu", Sine, ValueError),
        ("activation", "a sine", Sine, ValueError),
        ("init", "sine", Sine, TypeError),
        ("activation", "sine", dict, TypeError),
    ],
)
def test_what_is_no_option_cannot_be_registered(group: str, name: str, options: type, error: type[Exception]):
    before = {key: dict(table) for key, table in schema.CHOICES.items()}
    with pytest.raises(error, match=r"^\w+:|^activation=|^\w+ "):
        register_option(group, name, options)
    assert before == schema.CHOICES


def test_a_configuration_cannot_be_changed_afterwards():
    config = schema.Config()
    for node, name in ((config, "steps"), (config.model, "depth"), (config.activation, "name")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(node, name, 3)


@pytest.mark.parametrize(
    ("name", "width", "expansion", "units"),
    [("relu", 128, None, 512), ("swiglu", 128, None, 341), ("relu", 10, 1.25, 13), ("glu", 1, 0.1, 1)],
)
def test_gated_blocks_have_two_thirds_of_the_hidden_units(name: str, width: int, expansion: float | None, units: int):
    assert schema.hidden_units(Model(width=width, expansion=expansion), Activation(name)) == units


def test_every_gate_is_an_activation():
    assert set(schema.GATES) | set(schema.GATES.values()) <= set(schema.ACTIVATIONS)
    assert list(schema.GATES) == list(schema.GATED)


def test_the_schema_needs_nothing_but_python():
    for path in (REPOSITORY / "lab" / "schema").glob("*.py"):
        assert imports(path) <= {*sys.stdlib_module_names, "lab"}, path
    script = "import sys, lab.schema; print(sorted({'torch', 'numpy', 'hydra', 'omegaconf'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "[]\n"


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere in it."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.partition(".")[0])
    return packages
