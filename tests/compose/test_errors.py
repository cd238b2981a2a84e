"""What a person reads who got a configuration wrong: one sentence with the key and the remedy."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.main import main
from lab.compose import compose
from lab.schema import ConfigError

REPOSITORY = Path(__file__).parents[2]

WRONG = {
    # overrides -> (beginning of the sentence, another part of it)
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
    "sweep.batch=true": ("sweep.batch: ", "choose hydra/launcher=replicas"),
    "hydra.run.dir=elsewhere": ("hydra.run.dir: ", "output_dir=FOLDER"),
    "output_dir=${oc.env:HOME}": ("output_dir=${oc.env:HOME}: ", "environment"),
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
    "steps=" + 500 * "[": ("steps=[", "key=value"),
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
    "norm=batch batch_size=1": ("batch_size=1: ", "batch_size=2"),
    "norm=batch probe.examples=1": ("probe.examples=1: ", "probe.examples=2"),
    "norm=layer model.block=ffn model.expansion=0.5 model.width=2": ("model.expansion=0.5: ", "larger"),
    "norm=layer model.width=1": ("model.width=1: ", "model.width=2"),
    "activation=rrelu activation.lower=1": ("activation.lower=1.0: ", "exchange"),
    "optimizer.nesterov=true": ("optimizer.nesterov=true: ", "optimizer.momentum"),
    "probe.eval_every=75": ("probe.eval_every=75: ", "a multiple of 50"),
    "probe.every=60 probe.eval_every=100": ("probe.eval_every=100: ", "a multiple of 60"),
    "probe.every=0 probe.eval_every=9": ("probe.eval_every=9: ", "choose 0 or set probe.every"),
    "probe.jacobian=true probe.jacobian_every=5": ("probe.jacobian_every=5: ", "a multiple of 50"),
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
def test_a_mistake_is_reported_in_one_sentence_and_nothing_is_written(
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
        "              ['-m', 'steps=1,x']):\n"
        "    assert main(['run', *words]) == 2, words\n"
        "print(sorted({'torch', 'matplotlib', 'xarray', 'sklearn', 'tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "[]\n"
