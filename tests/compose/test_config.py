"""From files and overrides to one frozen configuration, and what a person reads who got one wrong."""

import ast
import dataclasses
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from experiments.main import main
from lab import schema
from lab.compose import compose, conf_dir, jobs_of_sweep
from lab.schema import ConfigError, as_dict, fingerprint, from_dict

REPOSITORY = Path(__file__).parents[2]

GROUPS = {
    "activation": {
        *("sigmoid", "tanh", "relu", "leaky_relu", "prelu", "rrelu", "elu", "selu", "gelu", "gelu_tanh", "swish"),
        *("silu", "softplus", "erf", "identity", "glu", "bilinear", "reglu", "geglu", "swiglu"),
    },
    "init": {
        *("xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "lecun_normal", "orthogonal"),
        *("torch_default", "gaussian", "critical"),
    },
    "norm": {"none", "batch", "layer", "rms"},
    "residual": {"none", "identity", "scaled", "rezero"},
    "clip": {"none", "norm", "value", "adaptive"},
    "optimizer": {"sgd", "adam", "adamw", "rmsprop"},
    "data": {"digits", "mnist", "fashion_mnist", "spirals", "circles", "gaussian", "npz"},
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in sorted(options)]

NEEDED = {
    "swish": ["activation.beta=2"],
    "npz": ["data.path=mine.npz"],
    "critical": ["activation=tanh"],
    "swiglu": ["model.block=ffn"],
}
"""Option -> further overrides that go with it."""


# --- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_has_a_file_and_a_class(group: str):
    assert {path.stem for path in (conf_dir() / group).glob("*.yaml")} == GROUPS[group]
    assert set(schema.CHOICES[group]) == GROUPS[group]


def test_there_is_no_group_without_a_schema():
    assert {path.name for path in conf_dir().iterdir() if path.is_dir()} == {*GROUPS, "experiment", "hydra"}
    assert set(schema.CHOICES) == set(GROUPS)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_makes_a_configuration(group: str, option: str):
    config = compose([f"{group}={option}", *NEEDED.get(option, [])])
    chosen = getattr(config, group)
    assert chosen.name == option
    assert type(chosen) is schema.CHOICES[group][option]
    assert from_dict(json.loads(json.dumps(as_dict(config)))) == config


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_file_says_in_its_first_line_what_the_option_is(group: str, option: str):
    first = (conf_dir() / group / f"{option}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")


def test_main_overrides_arrive():
    wanted: dict[str, Any] = {
        "model": {"depth": 50, "width": 64, "block": "ffn", "bias": False, "expansion": 2.0},
        "init": {"gain": 1.5},
        "norm": {"place": "pre"},
        "residual": {"alpha": 0.5},
        "clip": {"max_norm": 2.0},
        "optimizer": {"lr": 0.5},
        "probe": {"every": 3, "set": "norms", "examples": 7, "eval_every": 9},
    }
    wanted |= {"steps": 7, "batch_size": 16, "replicas": 2, "first_replica": 5, "seed": 3, "dtype": "float64"}
    wanted |= {"device": "cpu", "threads": 1, "output_dir": "somewhere", "overwrite": True}
    choices = ["norm=rms", "residual=scaled", "clip=norm"]
    values = dict(flat(wanted))
    found = as_dict(compose(choices + [f"{key}={value}" for key, value in values.items()]))
    assert {key: value for key, value in flat(found) if key in values} == values


def test_a_value_may_point_to_another():
    assert compose(["steps=${model.depth}", "model.depth=7"]).steps == 7


def test_a_configuration_cannot_be_changed_afterwards():
    config = compose()
    for node, name in ((config, "steps"), (config.model, "depth"), (config.activation, "name")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(node, name, 3)


# --- what is wrong, in one sentence ----------------------------------------------------------------------------------

WRONG = {
    # what is given -> (what the sentence begins with, what else it must say)
    # names
    "activation=rellu": ("activation=rellu: ", "did you mean relu?"),
    "activation=": ("activation=: ", "sigmoid, silu"),
    "init=he": ("init=he: ", "he_normal"),
    "data=mnits": ("data=mnits: ", "did you mean mnist?"),
    "+experiment=nothing": ("experiment=nothing: ", "sigmoid_vanishes"),
    "experiment=relu_he": ("experiment: ", "+experiment=NAME"),
    "activation.name=sine": ("activation=sine: ", "sigmoid, tanh"),
    "activation.name=prelu": ("activation.name=prelu: ", "activation=prelu"),
    "schema=config": ("schema: ", "choose one of activation"),
    # keys
    "model.deph=3": ("model.deph: ", "did you mean model.depth?"),
    "stepps=3": ("stepps: ", "did you mean steps?"),
    "foo.bar=3": ("foo: ", "choose one of activation"),
    "+model.foo=3": ("model.foo: ", "model.depth, model.width"),
    "++foo=3": ("foo: ", "steps, batch_size"),
    "probe={evry: 3}": ("probe.evry: ", "did you mean probe.every?"),
    "clip.max_norm=1": ("clip.max_norm: ", "choose clip=norm,"),
    "+clip.max_norm=1": ("clip.max_norm: ", "choose clip=norm,"),
    "optimizer.beta1=0.5": ("optimizer.beta1: ", "optimizer=adam or optimizer=adamw"),
    "activation.slope=1": ("activation.slope: ", "has no options"),
    "model.depth.more=3": ("model.depth: ", "give a whole number"),
    # types
    "model.depth=deep": ("model.depth=deep: ", "give a whole number"),
    "model.depth=1.5": ("model.depth=1.5: ", "give a whole number"),
    "model.depth=[1, 2]": ("model.depth=[1, 2]: ", "give a whole number"),
    "model.depth=true": ("model.depth=true: ", "give a whole number"),
    "model.bias=perhaps": ("model.bias=perhaps: ", "true or false"),
    "optimizer.lr=fast": ("optimizer.lr=fast: ", "give a number"),
    "output_dir=[a]": ("output_dir=[a]: ", "give a text"),
    "model=3": ("model=3: ", "model.KEY=VALUE"),
    "steps=": ("steps=: ", "give a whole number"),
    # null
    "model.depth=null": ("model.depth=null: ", "give a value"),
    "activation=null": ("activation=null: ", "choose one of sigmoid"),
    "model=null": ("model=null: ", "give a value"),
    "output_dir=null": ("output_dir=null: ", "give a value"),
    # ranges
    "model.depth=0": ("model.depth=0: ", "at least 1"),
    "steps=-1": ("steps=-1: ", "at least 0"),
    "seed=-1": ("seed=-1: ", "at least 0"),
    "optimizer.lr=1e308": ("optimizer.lr=1e+308: ", "float32"),
    "first_replica=9223372036854775808": ("first_replica=9223372036854775808: ", "at most"),
    "optimizer.lr=nan": ("optimizer.lr=nan: ", "finite"),
    "optimizer.lr=inf": ("optimizer.lr=inf: ", "finite"),
    "optimizer.momentum=1": ("optimizer.momentum=1.0: ", "below 1"),
    "init.gain=0": ("init.gain=0.0: ", "above 0"),
    "dtype=float16": ("dtype=float16: ", "float32, float64"),
    "device=tpu": ("device=tpu: ", "auto, cpu, cuda"),
    "probe.set=all": ("probe.set=all: ", "norms"),
    "model.block=conv": ("model.block=conv: ", "linear, ffn"),
    # grammar
    "steps": ("steps: ", "key=value"),
    "steps==3": ("steps==3: ", "key=value"),
    "steps: 3": ("steps: 3: ", "key=value"),
    "=3": ("=3: ", "key=value"),
    "output_dir=a (b": ("output_dir=a (b: ", "quotes"),
    "steps=3,": ("steps=3,: ", "key=value"),
    "steps=${": ("steps=${: ", "key=value"),
    "steps=${model.deph}": ("steps: ", "model.deph"),
    "steps=1,2": ("steps=1,2: ", "add -m"),
    "~activation": ("~activation: ", "choose another value"),
    "~steps": ("~steps: ", "choose another value"),
    "+steps=3": ("+steps=3: ", "leave out the plus"),
    "+activation=tanh": ("+activation=tanh: ", "leave out the plus"),
    # choices that exclude each other
    "activation=swiglu norm=layer": ("norm.place=inner: ", "norm.place=pre or norm.place=post"),
    "model.expansion=3": ("model.expansion: ", "choose ffn"),
    "init=critical activation=softplus": ("init=critical: ", "choose"),
    "init=critical residual=identity": ("init=critical: ", "choose"),
    "norm=batch batch_size=1": ("batch_size=1: ", "batch_size=2"),
    "norm=batch probe.examples=1": ("probe.examples=1: ", "probe.examples=2"),
    "norm=layer model.block=ffn model.expansion=0.5 model.width=2": ("model.expansion=0.5: ", "larger"),
    "norm=layer model.width=1": ("model.width=1: ", "model.width=2"),
    "activation=rrelu activation.lower=1": ("activation.lower=1.0: ", "exchange"),
    "optimizer.nesterov=true": ("optimizer.nesterov=true: ", "optimizer.momentum"),
    "residual=scaled residual.alpha=0": ("residual.alpha=0: ", "residual=rezero"),
    "data=npz": ("data.path: ", "data.path=FILE.npz"),
    "+experiment=exploding_clipped init=he_normal": (
        "experiment=exploding_clipped, init.weight_var: ",
        "init=gaussian",
    ),
}


def words(given: str) -> list[str]:
    """The words of a command line; only what excludes each other is several."""
    parts = given.split(" ")
    return parts if all("=" in part for part in parts) else [given]


@pytest.mark.parametrize("given", WRONG)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_written(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    begins, says = WRONG[given]
    assert main(["run", *words(given)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(begins)
    assert says in printed.err
    assert printed.err.endswith(".\n")
    assert printed.err.count("\n") == 1
    assert ". " not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_python_gets_the_same_sentence():
    with pytest.raises(ConfigError, match=r"^model\.depth=deep: give a whole number\.$"):
        compose(["model.depth=deep"])


def test_a_wrong_configuration_is_refused_before_torch_is_imported():
    script = (
        "import sys; from experiments.main import main\n"
        "for words in (['activation=rellu'], ['steps=x'], ['steps=-1'], ['norm=batch', 'batch_size=1'],\n"
        "              ['init=critical', 'activation=softplus'], ['-m', 'steps=1,x']):\n"
        "    assert main(['run', *words]) == 2, words\n"
        "print(sorted({'torch', 'matplotlib', 'xarray', 'sklearn', 'tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "[]\n"


# --- sweeps, fingerprints, boundaries --------------------------------------------------------------------------------


def test_a_sweep_is_every_combination_the_last_key_fastest():
    jobs = jobs_of_sweep(["activation=tanh,relu", "steps=5", "model.depth=range(2,5)"])
    expected = itertools.product(("tanh", "relu"), (2, 3, 4))
    assert jobs == [[f"activation={name}", "steps=5", f"model.depth={depth}"] for name, depth in expected]


def test_an_endless_sweep_is_refused():
    with pytest.raises(ConfigError, match=r"^optimizer\.lr=interval\(0,1\): only choices and ranges"):
        jobs_of_sweep(["optimizer.lr=interval(0,1)"])


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
    where_and_how = {"device", "threads", "output_dir", "overwrite", "checkpoint", "sweep", "runs_per_gpu"}
    for name, changed in changes(RICH, key):
        assert (fingerprint(changed) == fingerprint(RICH)) == (key in where_and_how), name


def test_a_fingerprint_does_not_depend_on_how_the_values_were_given():
    plain = fingerprint(compose(["optimizer.lr=1", "model.depth=5"]))
    assert plain == fingerprint(compose(["model={depth: 5}", "optimizer.lr=1.0", "seed=0", "output_dir=x"]))


def test_hydra_ends_at_the_config_module():
    users = {path.stem for path in REPOSITORY.glob("lab/**/*.py") if imports(path) & {"hydra", "omegaconf"}}
    assert users == {"config"}


def test_the_schema_needs_nothing_but_python():
    assert imports(REPOSITORY / "lab" / "schema.py") <= set(sys.stdlib_module_names)


def test_no_config_file_names_a_callable_but_the_launchers_their_plugins():
    named = {
        path.relative_to(conf_dir()).as_posix(): re.findall(r"_target_: (\S+)", path.read_text())
        for path in conf_dir().rglob("*.yaml")
        if "_target_" in path.read_text()
    }
    plugins = "hydra_plugins.hydra_{0}_launcher.{0}_launcher.{1}"
    assert named == {
        "hydra/launcher/joblib.yaml": [plugins.format("joblib", "JoblibLauncher")],
        "hydra/launcher/submitit_slurm.yaml": [plugins.format("submitit", "SlurmLauncher")],
    }


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


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


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_a_sweep_over_a_glob_is_refused_because_only_hydra_inside_a_run_could_expand_it():
    with pytest.raises(ConfigError, match=r"^activation=glob\(s\*\): .*list the values instead\.$"):
        jobs_of_sweep(["activation=glob(s*)"])
