"""Any override runs or is refused in one sentence: words made up by hypothesis, from valid ones to what no key takes.

`GRADLAB_FUZZ=20 pytest tests/compose/test_any_override.py` tries twenty times as many, and others each time.
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from experiments.main import main
from lab import schema
from lab.compose import compose_job, jobs_of_sweep
from lab.schema import Config, ConfigError, as_dict, fingerprint, from_dict

EFFORT = int(os.environ.get("GRADLAB_FUZZ", "1"))


def effort(examples: int) -> settings:
    return settings(
        max_examples=examples * EFFORT,
        derandomize=EFFORT == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def keys_of(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, its field) of every key below a dataclass."""
    for part in fields(node):
        child = getattr(node(), part.name)
        if is_dataclass(child):
            yield from keys_of(type(child), f"{prefix}{part.name}.")
        else:
            yield f"{prefix}{part.name}", part


OPTION_KEYS = {
    f"{group}.{part.name}": (f"{group}={option}", part)
    for group, options in schema.CHOICES.items()
    for option, node in options.items()
    for part in fields(node)
}
"""Every key of every option -> the choice that it belongs to, and its field."""
PLAIN_KEYS = {key: ("", part) for key, part in keys_of(Config) if key.partition(".")[0] not in schema.CHOICES}
KEYS = OPTION_KEYS | PLAIN_KEYS


def sentence(message: str) -> str:
    """The message, if it is one line that a terminal can show, with a full stop at its end and nowhere else."""
    assert message.isprintable()
    assert message.endswith(".")
    assert len(message) < 3000
    message.encode()
    return message


# --- any words at all -----------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec=None), max_size=12)  # surrogates and null bytes among them
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400, 1e30, 1e31, 5e-324, 1e308, -0.0]),
    st.floats(),
).map(str)
words = st.sampled_from(
    [
        *(
            "",
            "null",
            "true",
            "FALSE",
            "none",
            "~",
            "-",
            "--",
            ".",
            "..",
            "/",
            "???",
            "@",
            ":",
            "\\",
            "$",
            "#",
            "%s",
            "{0}",
        ),
        *(
            "'",
            '"',
            "''",
            "a b",
            "a,b",
            "1,2",
            "[1,2]",
            "[",
            "]",
            "{",
            "}",
            "{a: 1}",
            "{a: {b: [1, {}]}}",
            "[[[]]]",
            "()",
        ),
        *("${", "${}", "${a}", "${steps}", "${model}", "${steps", "${.}", "${..}", "${${steps}}", "${oc.env:HOME}"),
        *(
            "${now:%Y}",
            "${now:}",
            "${now}",
            "${hydra:runtime}",
            "${hydra.job.num}",
            "${oc.decode:1}",
            "\\${x}",
            "$${x}",
        ),
        *("range(1,3)", "range(3)", "range(1,2,0)", "choice(1,2)", "choice()", "interval(0,1)", "glob(*)", "sort(2,1)"),
        *("shuffle(1,2)", "int(3)", "int(x)", "float(3)", "str(3)", "bool(x)", "json_str(x)", "extend_list(1)", "f(x)"),
        *(
            "relu",
            "gelu",
            "none",
            "batch",
            "mnits",
            "0x10",
            "1_000",
            "1e",
            "+1",
            "\u0661",
            "nan",
            "inf",
            "-inf",
            "é" * 300,
        ),
        *("a" * 300, "a/" * 2000, "9" * 5000, "[" * 500, "'" * 99, "((((", "_target_", "os.system", "~/x", "~nobody/x"),
    ]
)
values = st.one_of(words, numbers, texts, st.lists(st.one_of(words, numbers), max_size=3).map(str))
known = st.sampled_from([*KEYS, *schema.CHOICES, "experiment", "model", "probe", "checkpoint", "sweep", "schema"])
unknown = st.one_of(
    texts,
    words,
    st.sampled_from(
        [
            *(
                "hydra",
                "hydra.run.dir",
                "hydra.sweep.subdir",
                "hydra.launcher.n_jobs",
                "hydra/launcher",
                "hydra.verbose",
            ),
            *(
                "_target_",
                "model._target_",
                "stepps",
                "model.depth.more",
                "activation@x",
                "schema/config",
                "a.b.c",
                ".",
            ),
            *("hydra.searchpath", "hydra.job.num", "hydra.callbacks", "hydra/sweeper", "hydra.job.name", "/", "a/b"),
        ]
    ),
)
signs = st.sampled_from(["", "", "", "+", "++", "~"])
overrides = st.one_of(
    st.builds("{}{}={}".format, signs, known, values),
    st.builds("{}{}={}".format, signs, unknown, values),
    st.builds("{}{}".format, signs, st.one_of(known, unknown)),
    texts,
)


@effort(40)
@given(st.lists(overrides, min_size=1, max_size=2), st.booleans())
@example(["seed=range(0,1000000000)"], True)
@example(["seed=shuffle(range(0,1000000000))"], True)
@example(["seed=range(0.0,1.0,0.0)"], True)
@example(["seed=range(nan,1)"], True)
@example([f"seed={','.join(map(str, range(200)))}", f"first_replica={','.join(map(str, range(200)))}"], True)
@example(["steps=" + "[" * 19], False)
@example(["output_dir='\ud800'"], False)
@example(["a" * 300], False)
@example(["activation=" + "a" * 300], False)
@example(["+experiment=" + "a" * 300], False)
@example([f"optimizer.lr=1{400 * '0'}"], False)
@example([f"seed=1{5000 * '0'}"], False)
def test_any_words_make_a_configuration_or_one_sentence(given_words: list[str], is_sweep: bool):
    try:
        jobs = jobs_of_sweep(given_words) if is_sweep else [given_words]
        config, folder = compose_job(jobs[0], number=0 if is_sweep else None)
    except ConfigError as error:
        note(sentence(str(error)))
        return
    os.fsencode(folder)
    assert from_dict(as_dict(config)) == config
    assert len(fingerprint(config)) == 16


# --- every key, from the command line to the last file --------------------------------------------------------------

SIZES = {
    *("model.depth", "model.width", "model.expansion", "steps", "batch_size", "replicas", "threads", "probe.examples"),
    *("data.examples", "data.features", "data.classes"),
}
"""Keys that make a run take long; of them only small values are run."""
SMALL = ["model.depth=2", "model.width=4", "steps=2", "replicas=2", "batch_size=4", "data=circles", "threads=1"]
EXTREME = [
    *("0", "-1", "1", "2", "0.5", "-0.5", "1e-300", "5e-324", "1e-45", "1e-30", "1e-8", "0.999999999999", "1e10"),
    *(
        "1e30",
        "-1e30",
        "1.1e30",
        "1e308",
        "nan",
        "inf",
        "-inf",
        "9007199254740992",
        "9007199254740993",
        "1e400",
        f"1{400 * '0'}",
    ),
    *("null", "true", "x", "''", "[]", "{}", "'a\0b'", "${steps}", "${oc.env:HOME}", "1,2", "é", "../x", "/"),
]
FAR_AWAY = ("mnist", "fashion_mnist")
"""Data that would be fetched."""


@st.composite
def one_key(draw: st.DrawFn) -> list[str]:
    key = draw(st.sampled_from(sorted(KEYS)))
    choice, part = KEYS[key]
    allowed = part.metadata.get("allowed", [])
    pool = ["-1", "0", "1", "2", "3", "1.5", "x", "null"] if key in SIZES else [*allowed, "true", "false", *EXTREME]
    if key == "data.name":
        pool = [value for value in pool if value not in FAR_AWAY]
    given_words = [f"{key}={draw(st.sampled_from(pool))}"]
    if choice and not any(name in choice for name in FAR_AWAY):
        given_words.insert(0, choice)
    for group, options in schema.CHOICES.items():
        if not choice.startswith(f"{group}=") and draw(st.integers(0, 3)) == 0:
            given_words.insert(0, f"{group}={draw(st.sampled_from([x for x in options if x not in FAR_AWAY]))}")
    return given_words


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # at the ends of the range NumPy says that it went beyond
@effort(40)
@given(one_key())
@example(["residual=rezero", "residual.alpha=1e10"])
def test_every_key_with_any_value_runs_or_is_refused_before_anything_is_written(given_words: list[str]):
    status, out, err, written = gradlab("run", *SMALL, *given_words, "probe.every=1")
    note(err)
    if status == 0:
        assert any(name.endswith("summary.json") for name in written), written
        return
    assert status == 2
    assert written == []
    assert out == ""
    assert err.endswith("\n")
    sentence(err[:-1])


def gradlab(*given_words: str) -> tuple[int, str, str, list[str]]:
    """A command in an empty folder: status, what it printed on both channels, and the files that are there then."""
    out, err, before, argv = io.StringIO(), io.StringIO(), Path.cwd(), list(sys.argv)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "deep", "down")  # so that ../x is here as well
        home.mkdir(parents=True)
        os.chdir(home)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(given_words)
        finally:
            os.chdir(before)
            sys.argv = argv
            os.environ["HYDRA_FULL_ERROR"] = "0"
        written = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
    return status, out.getvalue(), err.getvalue(), written
