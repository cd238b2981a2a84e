"""Claims for the tests of `gradlab reproduce`, in a module of their own so that other processes find them.

What `measure` does to the world, it does in the folder that FAKE_CLAIMS names: it notes each call there, and looks
there whether it should fail, die or wait.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.statistics import interval

WORLD = "FAKE_CLAIMS"


def measure_slope(scale: Scale) -> Samples:
    return {"slope": _noted("slope", scale, 0.5)}


def measure_rate(scale: Scale) -> Samples:
    return {"file": _noted("rate", scale, 2.0)}  # a name that numpy.savez has another use for


def measure_cost(scale: Scale) -> Samples:
    return {"seconds": _noted("cost", scale, 3.0)}


def measure_training(scale: Scale) -> Samples:
    return {"accuracy": _noted("training", scale, 0.9), "gone": np.array([np.nan, np.inf])}


def _noted(id_: str, scale: Scale, center: float) -> np.ndarray:
    world = Path(os.environ[WORLD])
    threads = os.environ.get("OMP_NUM_THREADS")
    note = world / f"{id_}-{time.monotonic_ns()}"
    note.with_suffix(".begun").write_text(f"{os.getpid()} {threads} {scale.name}")
    if (world / f"fail-{id_}").exists():
        raise RuntimeError(f"the <b>{id_}</b> caught fire")
    if (world / f"die-{id_}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    while (world / f"wait-{id_}").exists():
        time.sleep(0.01)
    note.with_suffix(".ended").write_text("")
    return center + 0.01 * np.arange(scale.replicas)


def judge(samples: Samples) -> Judgement:
    (name, values) = next(iter(samples.items()))
    number = interval(name, values, "units | a layer", predicted=0.51)
    others = (Number("lost", float("nan")), Number("exploded", float("inf")), Number("tiny", 3.8e-19))
    reason = f"It is {number.value:.3g}, e.g. more than 0.1. A second sentence with a < b & `c_d*e` follows."
    if number.value > 2.5:
        return Judgement(Verdict.FAILS, reason, (number, *others))
    if number.value > 1.5:
        return Judgement(Verdict.CONDITION, reason, (number, *others), "layers of a | b units")
    return Judgement(Verdict.HOLDS, reason, (number, *others))


def draw(figure: Any, samples: Samples) -> None:
    ax = figure.subplots()
    ax.plot(next(iter(samples.values())), "o-")
    ax.set_xlabel("replica")
    ax.set_ylabel("value")


def make(id_: str, section: str, measure, **others) -> Claim:
    return Claim(
        id=id_,
        section=section,
        statement=f"The *{id_}* is < 1 & bounded by a_b.",
        limit="Not where the <script>alert(1)</script> is.",
        source="Nobody 1999, section 2",
        quantity="The value",
        rule="Holds if the mean is below 1.5.",
        caption="Value against replica.",
        measure=measure,
        judge=judge,
        draw=draw,
        arms={"narrow": ("activation=tanh", "model.width=8"), "by hand": ("one matrix, repeated",), "plain": ()},
        **others,
    )


CLAIMS = (
    make("slope", "3.1, Q2", measure_slope, findings=("Section 3.1 says 0.1 where 0.2 is meant.",)),
    make("rate", "2.3", measure_rate),
    make("cost", "coding 1", measure_cost, is_timed=True),
    make("training", "2", measure_training, needs_full=True),
)
