"""What a sweep is going to do: composed once where runs differ in numbers alone, and as if composed one by one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import compose
from lab.schema import PER_REPLICA, Config, ConfigError
from lab.sweep import plan as plan_module
from tests.compose.test_any_override import EXTREME, effort, sentence


def composed_one_by_one(jobs: Sequence[plan_module.PlannedRun]) -> list[tuple[Config, Path]]:
    return [compose.compose_job(job.overrides, number) for number, job in enumerate(jobs)]


@pytest.mark.parametrize(
    ("overrides", "composed"),
    [
        (("seed=range(0,5)",), 1),
        (("optimizer.lr=1,0.5,1e-3", "activation=relu,tanh", "seed=1,2"), 2),
        (("clip=norm", "clip.max_norm=1,2.5", "residual=scaled", "++residual.alpha=1,2"), 1),
        (("steps=1,2", "first_replica=0,5"), 2),  # a number that replicas cannot differ in
        (("init=critical", "activation=tanh", "init.bias_var=0.01,0.05"), 1),
        (("optimizer.lr=0.1,0.2", "init.gain=${optimizer.lr}"), 2),  # one key follows another
        (("seed=1,2", "hydra.sweep.subdir='run ${seed}'"), 2),
        (("optimizer.lr='0.1','0.2'",), 2),  # texts, which OmegaConf reads
        (("init.gain=1,2", "init={gain:3}"), 2),  # what comes later wins
    ],
)
def test_a_run_is_what_composing_it_alone_makes(
    overrides: Sequence[str], composed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    whole = compose.compose_job

    def counted(*arguments: object) -> object:
        asked.append(arguments)
        return whole(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(compose, "compose_job", counted)
    jobs = plan_module.plan([*overrides, f"output_dir={tmp_path}/sweep"])

    assert len(asked) == composed
    assert [(job.config, job.folder) for job in jobs] == composed_one_by_one(jobs)
    assert len({job.folder for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        ("optimizer.lr=0.1,-1", "optimizer.lr=-1.0: give a number"),
        ("seed=1,2.5", "seed=2.5: give a whole number"),
        ("seed=1,true", "seed=True: give a whole number"),
        (f"optimizer.lr=1,1{400 * '0'}", "optimizer.lr=1"),
        ("init.gain=1,nan", "init.gain=nan: give a finite number"),
        ("init.weight_var=1,2", "init.weight_var: the chosen init has no weight_var"),
        ("+seed=1,2", "seed=1: seed has a value already"),
        ("seed=1,2 seed=3,4", "seed: it is given 2 times; give all its values in one list"),
        ("seed=1 seed=2,3", "seed: it is given 2 times; give all its values in one list"),
    ],
)
def test_a_number_that_cannot_be_is_refused_wherever_it_stands_in_the_sweep(swept: str, said: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="^[+]?" + said.replace("+", "[+]")):
        plan_module.plan([*swept.split(), f"output_dir={tmp_path}/sweep"])


CHOSEN = {"init": "init=gaussian", "clip": "clip=norm", "residual": "residual=scaled"}


@pytest.mark.slow
@effort(25)
@given(st.data())
def test_any_numbers_are_taken_or_refused_as_if_composed_one_by_one(data: st.DataObject):
    key = data.draw(st.sampled_from(sorted(PER_REPLICA)))
    values = data.draw(
        st.lists(st.sampled_from([value for value in EXTREME if "," not in value]), min_size=2, max_size=3)
    )
    choices = [CHOSEN[group]] if (group := key.partition(".")[0]) in CHOSEN else []
    if key == "init.gain":
        choices = ["init=he_normal"]
    overrides = [*choices, f"{key}={','.join(values)}", "output_dir=/tmp"]
    found: list[list[Config] | str] = []
    for compose_all in (plan_module._compose_all, one_by_one):
        try:
            found.append([config for config, _ in compose_all(overrides, compose.jobs_of_sweep(overrides))])
        except ConfigError as error:
            found.append(sentence(str(error)))
    assert found[0] == found[1]


def one_by_one(overrides: Sequence[str], combinations: Sequence[Sequence[str]]) -> list[tuple[Config, Path]]:
    return [compose.compose_job(words, number) for number, words in enumerate(combinations)]


def test_critical_init_without_a_critical_point_is_refused_before_anything_is_trained(tmp_path: Path):
    with pytest.raises(ConfigError, match="critical"):
        plan_module.plan(["init=critical", "activation=tanh,softplus", f"output_dir={tmp_path}/sweep"])
