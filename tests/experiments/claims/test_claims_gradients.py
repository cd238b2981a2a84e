"""Claims about vanishing and exploding gradients and their cures: verdicts can come out otherwise, tools are right."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import optimize, stats

from experiments.claims import (
    exploding_product,
    fix_activation,
    fix_batchnorm,
    fix_clipping,
    fix_init,
    fix_layernorm,
    fix_residual,
    fixes,
    frozen_layers,
    gradients,
    networks,
    norms_and_skips,
    profiles,
    recurrent,
    rnn,
    shares,
    statistics,
    vanishing_product,
    wording,
)
from experiments.claims.claim import Claim, Number, Samples, Scale, Verdict
from lab import compose, schema, theory
from lab.machine.threads import thread_budget
from lab.network.seeding import Streams, streams
from lab.typing import Array

R = 8
TINY = Scale("test", 2, 0.01)
TOPICS = (gradients, recurrent, fixes, norms_and_skips)
CLAIMS: dict[str, Claim] = {claim.id: claim for topic in TOPICS for claim in topic.CLAIMS}


@pytest.fixture(autouse=True)
def _one_thread():
    with thread_budget(1):
        yield


def near(value: float, *shape: int, spread: float = 0.001) -> Array:
    """That value and a little, the same every time: (*shape, R)."""
    return value + spread * np.random.default_rng(0).normal(size=(*shape, R))


# --- samples like those of `measure`, and others for which the verdict must be another ------------------------------


def profile(arm: str, slope: float, signal: float = 0.0, expected: float | None = None) -> dict[str, Array]:
    """30 layers that lose `slope` decades each on the way down, and theory that expects as much unless told."""
    layer = np.arange(30)[:, None]
    found = {}
    for name, rate in (("delta_rms", slope), ("pre_rms", signal)):
        there = rate if expected is None or name == "pre_rms" else expected
        found[f"{arm}: {name}"] = 10.0 ** (layer * rate + near(0))
        found[f"{arm}: {name} expected"] = 10.0 ** (layer * there + np.array([0, -0.1, 0.1])).T
    return found


def start(slopes: dict[str, float]) -> dict[str, Array]:
    return {name: values for arm, slope in slopes.items() for name, values in profile(arm, slope).items()}


def vanishing() -> tuple[Samples, Samples]:
    slopes = dict.fromkeys(vanishing_product.ARMS, 0.3) | dict.fromkeys(vanishing_product.BELOW_ONE, 0.0)
    everything_but_one = dict.fromkeys(vanishing_product.ARMS, 0.3) | {vanishing_product.ONE: 0.0}
    return start(slopes), start(everything_but_one)


def frozen() -> tuple[Samples, Samples]:
    good: dict[str, Array] = {}
    for arm in frozen_layers.ARMS:
        layers = int(arm.split()[0])
        is_even = arm in (frozen_layers.SHALLOW_ADAM, frozen_layers.DEEP_TINY)
        fall = 0.0 if is_even else 0.6
        good |= {
            f"{arm}: accuracy": near(0.9 if arm == frozen_layers.SHALLOW_ADAM else 0.1, 3),
            f"{arm}: steps": np.array([0.0, 300, 600]),
            f"{arm}: rate": np.array([0.1]),
            f"{arm}: update": near(-3.0, layers) + fall * np.arange(1 - layers, 1)[:, None],
            f"{arm}: gradient": near(-0.6 * layers),
        }
    learns = {f"{frozen_layers.DEEP_SGD}: accuracy": near(0.9, 3)}
    return good, good | learns


def exploding() -> tuple[Samples, Samples]:
    found: dict[str, Array] = {}
    for arm, slope in zip(exploding_product.ARMS, (0, -0.09, -0.15, 0, -0.13), strict=True):
        found |= profile(arm, slope)
        ends = arm in (exploding_product.LARGE_RELU, exploding_product.LARGER_RELU)
        found[f"{arm}: diverged"] = np.full((3, R), float(ends))
    found["largest slopes"] = np.array([0.25, 1, 1, 1, 1, 1.1289, 1.129, 1.0998])
    survives = {f"{exploding_product.LARGE_RELU}: diverged": np.zeros((3, R))}
    return found, found | survives


def recurrence() -> tuple[Samples, Samples]:
    found: dict[str, Array] = {"guessing": np.array([1 / 6]), "steps": np.array([0.0, 600, 1200])}
    time = np.arange(recurrent.TIME)[::-1, None]
    for kind in recurrent.KINDS:
        for ensemble in recurrent.ENSEMBLES:
            growth = near(0.69 if (kind, ensemble) == ("repeated", "symmetric") else 0.0)
            radius = near(0.69 if ensemble == "symmetric" else 0.0)
            found |= {
                f"{ensemble} {kind}": growth,
                f"{ensemble} {kind} profile": time * growth / math.log(10),
                f"{ensemble} {kind} log radius": radius,
            }
        for activation in recurrent.ACTIVATIONS:
            found[f"gaussian {activation} {kind}"] = near(0.0, len(recurrent.WEIGHT_VARS))
            found[f"mean field {activation}"] = np.zeros(len(recurrent.WEIGHT_VARS))
        for words in ("unclipped", "clipped"):
            exploded = math.inf if (kind, words) == ("repeated", "unclipped") else 1.0
            found |= {
                f"{kind} {words} growth": np.full((len(recurrent.RATES), R), exploded),
                f"{kind} {words} grid": np.full((len(recurrent.RATES), R), 0.1),
                f"{kind} {words} loss": near(0.05 if words == "clipped" else 0.17, 3),
                f"{kind} {words} rate": np.array([0.1]),
            }
    calm = {
        "symmetric repeated": near(0.0),
        "repeated unclipped growth": np.ones((len(recurrent.RATES), R)),
    }
    return found, found | calm


def activation() -> tuple[Samples, Samples]:
    slopes = dict(zip(fix_activation.ARMS, (0.0, 0.15, 0.39, 0.01, 0.24, 0.63), strict=True))
    found = start(slopes)
    for arm in fix_activation.ARMS:
        learns = arm in (fix_activation.HE, fix_activation.TANH_XAVIER)
        found |= {f"{arm}: accuracy": near(0.8 if learns else 0.1, 3), f"{arm}: steps": np.array([0.0, 250, 500])}
    return found, found | profile(fix_activation.XAVIER, 0.0) | profile(fix_activation.DEFAULT, 0.0)


def initialization() -> tuple[Samples, Samples]:
    kept = start(dict.fromkeys(fix_init.ARMS, 0.0))
    return kept | profile("Xavier, ReLU", 0.15, -0.15), kept


def clipping() -> tuple[Samples, Samples]:
    found: dict[str, Array] = {
        "norm error": np.full((3, R), 1e-16),
        "ratio error": np.full((3, R), 1e-12),
        "step ratio": near(2.7, 3),
        "vanishing: gradient": near(-12),
        "vanishing: accuracy": near(0.1),
        "vanishing: loss changed by": np.zeros(R),
    }
    for arm, accuracy in zip(fix_clipping.TRAINED, (0.3, 0.6, 0.2, 0.6), strict=True):
        found |= {
            f"{arm}: accuracy": near(accuracy, 3),
            f"{arm}: grid": np.zeros((len(fix_clipping.RATES), R)),
            f"{arm}: rate": np.array([0.1]),
        }
    return found, found | {f"{fix_clipping.EXPLODING}: accuracy": near(0.6, 3)}


def batch_norm() -> tuple[Samples, Samples]:
    found = start(dict(zip(fix_batchnorm.STARTS, (0.6, -0.01, -0.09, -0.08, 0.0, -0.08), strict=True)))
    finals = (0.1, 0.95, 0.8, 0.95, 0.2, 0.2, 0.0, 0.97)
    for arm, accuracy in zip(fix_batchnorm.TRAINED, finals, strict=True):
        found |= {f"{arm}: accuracy": near(accuracy, 3), f"{arm}: steps": np.array([0.0, 150, 300])}
    found["first steps: slope"] = near(0.0, 7) - np.linspace(0.09, 0.01, 7)[:, None]
    no_faster = {f"10 {name} layers, batch norm: accuracy": near(0.1, 3) for name in ("sigmoid", "ReLU")}
    return found, found | no_faster


def layer_norm() -> tuple[Samples, Samples]:
    found = start(dict(zip(fix_layernorm.STARTS, (0.0, -0.036, 0.41), strict=True)))
    for time in ("before", "after"):
        for place, mean, deviation in (("normalized", 0.0, 1.0), ("affine", 0.0, 1.0), ("activated", 0.4, 0.58)):
            found[f"{time} {place} mean"] = near(mean, fix_layernorm.DEPTH, spread=1e-16)
            found[f"{time} {place} deviation"] = near(deviation, fix_layernorm.DEPTH, spread=1e-16)
        found |= {
            f"{time} error": np.full((fix_layernorm.DEPTH, R), 1e-15),
            f"{time} unbiased": np.full((fix_layernorm.DEPTH, R), 1.0079),
            f"{time} units": near(0.6, fix_layernorm.DEPTH),
        }
    return found, found | {"after error": np.full((fix_layernorm.DEPTH, R), 0.0079)}


def residual() -> tuple[Samples, Samples]:
    depth = np.array(fix_residual.DEPTHS, dtype=np.float64)
    found: dict[str, Array] = {
        kind: fix_residual.expected(kind, depth)[:, None] + near(0) for kind in fix_residual.KINDS
    }
    for kind, accuracy in zip(fix_residual.TRAINED_KINDS, (0.3, 0.3, 0.95), strict=True):
        found |= {f"accuracy, {kind}": near(accuracy, 3), f"steps, {kind}": np.array([0.0, 150, 300])}
    return found, found | {fix_residual.UNDAMPED: near(0.0, len(depth))}


CASES: dict[str, tuple[Samples, Samples]] = {
    "vanishing-product": vanishing(),
    "frozen-early-layers": frozen(),
    "exploding-product": exploding(),
    "exploding-rnn": recurrence(),
    "fix-activation": activation(),
    "fix-init": initialization(),
    "fix-clipping": clipping(),
    "fix-batchnorm": batch_norm(),
    "fix-layernorm": layer_norm(),
    "fix-residual": residual(),
}


def test_every_claim_has_its_cases_and_its_record():
    assert list(CLAIMS) == list(CASES) == list(RECORDED)


@pytest.mark.parametrize("claim_id", CASES)
def test_every_claim_can_fail(claim_id: str):
    claim, (good, doctored) = CLAIMS[claim_id], CASES[claim_id]
    assert claim.judge(good).verdict == RECORDED[claim_id]
    assert claim.judge(doctored).verdict != RECORDED[claim_id]


WORSE: dict[str, tuple[str, dict[str, Array], Verdict]] = {
    "ordinary weights do not vanish": ("vanishing-product", profile("sigmoid, Xavier", 0.0), Verdict.FAILS),
    "theory expects another slope": (
        "vanishing-product",
        profile("sigmoid, Xavier", 0.3, expected=0.2),
        Verdict.UNDECIDED,
    ),
    "Adam freezes too": (
        "frozen-early-layers",
        {
            f"{arm}: update": near(-3.0, 20) + 0.6 * np.arange(-19, 1)[:, None]
            for arm in (frozen_layers.SHALLOW_ADAM, frozen_layers.DEEP_TINY)
        },
        Verdict.HOLDS,
    ),
    "no growth with large weights": ("exploding-product", profile("ReLU, s = 3", 0.0), Verdict.FAILS),
    "worse in every ensemble": (
        "exploding-rnn",
        {f"{ensemble} repeated": near(0.5) for ensemble in recurrent.ENSEMBLES},
        Verdict.HOLDS,
    ),
    "ReLU does not learn": ("fix-activation", {"ReLU, He: accuracy": near(0.1, 3)}, Verdict.FAILS),
    "He does not suit ReLU": ("fix-init", profile("He, ReLU", 0.1), Verdict.FAILS),
    "the signal alone leaves the range": ("fix-init", profile("He, ReLU", 0.0, signal=0.1), Verdict.FAILS),
    "clipping cures all": ("fix-clipping", {f"{fix_clipping.STRONG}: accuracy": near(0.6, 3)}, Verdict.HOLDS),
    "clipping leaves another norm": ("fix-clipping", {"norm error": np.full((3, R), 0.1)}, Verdict.FAILS),
    "clipping changes the ratio": ("fix-clipping", {"ratio error": np.full((3, R), 0.1)}, Verdict.HOLDS),
    "batch norm harms nothing": (
        "fix-batchnorm",
        profile("ReLU, He, batch norm", 0.0) | {"50 ReLU layers, batch norm: accuracy": near(0.9, 3)},
        Verdict.HOLDS,
    ),
    "what explodes did so without batch norm": (
        "fix-batchnorm",
        profile("ReLU, He", -0.1) | {"50 ReLU layers, batch norm: accuracy": near(0.9, 3)},
        Verdict.HOLDS,
    ),
    "batch norm ends no vanishing": ("fix-batchnorm", profile("sigmoid, Xavier, batch norm", 0.5), Verdict.FAILS),
    "skips let it diminish": ("fix-residual", {fix_residual.NORMED: near(-9.0, 5)}, Verdict.FAILS),
}


@pytest.mark.parametrize("case", WORSE)
def test_a_rule_sees_what_would_change_the_verdict(case: str):
    claim_id, changed, verdict = WORSE[case]
    good, _ = CASES[claim_id]
    assert changed.keys() <= good.keys()
    assert CLAIMS[claim_id].judge({**good, **changed}).verdict is verdict


@pytest.mark.parametrize("claim_id", CASES)
def test_diverged_replicas_do_not_stop_a_judgement(claim_id: str):
    good, _ = CASES[claim_id]
    lost = {name: np.full_like(values, np.nan) for name, values in good.items() if name.endswith(("accuracy", "loss"))}
    claim = CLAIMS[claim_id]
    assert claim.judge({**good, **lost}).reason
    claim.draw(Figure(), {**good, **lost})


def test_a_diverged_network_counts_as_one_that_guesses():
    """Batch norm that adds 0.11 to networks which diverge without it adds 0.01 to those that guess."""
    good = dict(CASES["fix-batchnorm"][0])
    for layers in ("10 sigmoid layers", "10 ReLU layers"):
        good |= {f"{layers}: accuracy": np.full((3, R), np.nan), f"{layers}, batch norm: accuracy": near(0.11, 3)}
    assert CLAIMS["fix-batchnorm"].judge(good).verdict is Verdict.FAILS
    assert shares.answered(np.array([np.nan, 0.3])).tolist() == [0.1, 0.3]


def test_the_condition_of_batch_norm_says_that_fifty_plain_layers_learn_neither_way():
    good = CASES["fix-batchnorm"][0]
    assert "learn neither with nor without it" in CLAIMS["fix-batchnorm"].judge(good).condition
    without = {**good, "50 ReLU layers: accuracy": near(0.9, 3)}
    assert "learn without it only" in CLAIMS["fix-batchnorm"].judge(without).condition


def test_the_condition_of_clipping_names_what_was_cured_and_what_was_not():
    good = CASES["fix-clipping"][0]
    condition = CLAIMS["fix-clipping"].judge(good).condition
    assert "a mild explosion (s = 3) is cured: accuracy 0.60" in condition
    assert "a stronger one (s = 4) stays worse: accuracy 0.20" in condition
    worse = {**good, f"{fix_clipping.CLIPPED_ARM}: accuracy": near(0.45, 3)}
    assert "a mild explosion (s = 3) stays worse" in CLAIMS["fix-clipping"].judge(worse).condition


def test_tanh_is_said_to_learn_as_well_as_relu_only_if_it_does():
    good = CASES["fix-activation"][0]
    told = "tanh with Xavier learns at least as well (0.80 against 0.80 with He)"
    assert told in CLAIMS["fix-activation"].judge(good).condition
    slower = {**good, "tanh, Xavier: accuracy": near(0.6, 3)}
    assert "learns at least" not in CLAIMS["fix-activation"].judge(slower).condition


def test_a_pair_in_a_condition_has_no_comma():
    condition = CLAIMS["fix-init"].judge(CASES["fix-init"][0]).condition
    assert "Xavier with tanh and He with ReLU keep" in condition
    assert "," not in condition


def test_theorys_band_is_a_row_with_the_value_that_must_lie_in_it():
    samples = profile("arm", 0.3)
    (band,) = wording.bands(samples, ["arm"])
    assert band.value == pytest.approx(np.log10(samples["arm: delta_rms"][0]).mean())
    assert (band.lower, band.predicted, band.upper) == pytest.approx((-0.1, 0.0, 0.1))
    (last,) = wording.bands(samples, ["arm"], "pre_rms", -1)
    assert (last.lower, last.upper) == pytest.approx((-0.1, 0.1))


def test_an_interval_for_several_comparisons_is_wider_as_bonferroni_has_it():
    a, b = near(1.0, spread=0.1), near(0.0, spread=0.1)[::-1]
    one, eight = statistics.difference("", a, b), statistics.wider(a, b, 8)
    assert one.lower is not None
    assert eight.lower is not None
    assert eight.value == pytest.approx(one.value)
    ratio = (eight.value - eight.lower) / (one.value - one.lower)
    wanted = stats.norm.ppf(1 - 0.025 / 8) / stats.norm.ppf(0.975)  # 1.395; the tails of 8 replicas are shorter
    assert ratio == pytest.approx(wanted, rel=0.1)


def test_a_statistic_of_several_samples_leaves_lost_replicas_out():
    def ratio(x: Array, y: Array, axis: int = -1) -> Array:
        return np.asarray(x.mean(axis) / y.mean(axis))

    number = statistics.combined("x", ratio, [1.0, 3.0, np.nan], [4.0, 4.0])
    assert number.value == 0.5
    assert (number.lower, number.upper) == (0.25, 0.75)
    assert math.isnan(statistics.combined("x", ratio, [np.nan], [4.0]).value)


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measurements with small networks."""
    small, shallow = ("model.width=8", "batch_size=8"), "model.depth=4"

    def initial(overrides: Sequence[str], replicas: int, *more: str) -> object:
        own = () if "model.block=ffn" in overrides else (shallow,)
        return original["initial"]([*overrides, *small, *own], replicas, *more)

    def trained(overrides: Sequence[str], replicas: int, steps: int, *more: str) -> object:
        return original["trained"]([*overrides, *small, shallow], replicas, min(steps, 3), *more, "probe.every=1")

    def tuned(
        overrides: Sequence[str], rates: Sequence[float], replicas: int, steps: int, every: int, *metric: str
    ) -> object:
        return original["tuned"]([*overrides, *small, shallow], rates, replicas, steps, every, *metric)

    original = {name: getattr(networks, name) for name in ("initial", "trained", "tuned")}
    for name, function in (("initial", initial), ("trained", trained), ("tuned", tuned)):
        monkeypatch.setattr(networks, name, function)
    monkeypatch.setattr(exploding_product, "TRAINED", (*small, shallow))
    monkeypatch.setattr(fix_residual, "DEPTHS", (4, 8))
    monkeypatch.setattr(recurrent, "UNITS", 6)
    monkeypatch.setattr(recurrent, "TRAINED_TIME", 4)
    monkeypatch.setattr(recurrent, "TRAINED_UNITS", 4)
    monkeypatch.setattr(rnn, "TRAINING", 64)
    monkeypatch.setattr(rnn, "HELD_OUT", 16)


@pytest.mark.slow
@pytest.mark.parametrize("claim_id", CASES)
def test_what_is_measured_is_what_the_cases_hold_and_can_be_judged_and_drawn(
    claim_id: str, monkeypatch: pytest.MonkeyPatch
):
    shrink(monkeypatch)
    claim = CLAIMS[claim_id]
    with np.errstate(all="ignore"):
        samples = claim.measure(TINY)
        assert claim.judge(samples).reason
        claim.draw(Figure(), samples)
    assert samples.keys() == CASES[claim_id][0].keys()
    for name, values in samples.items():
        assert values.dtype == np.float64, name
        assert values.ndim == CASES[claim_id][0][name].ndim, name


@pytest.mark.slow
@pytest.mark.parametrize("claim_id", [name for name in CASES if name != "exploding-rnn"])
def test_every_arm_is_a_configuration(claim_id: str):
    for overrides in list(CLAIMS[claim_id].arms.values())[-2:]:
        compose.compose(overrides)


# --- profiles -------------------------------------------------------------------------------------------------------


def test_a_slope_is_positive_where_the_gradient_vanishes():
    number = profiles.slope(profile("arm", 0.3, expected=0.2), "arm")
    assert number.value == pytest.approx(0.3, abs=1e-3)
    assert number.predicted == pytest.approx(0.2, abs=1e-12)
    assert profiles.vanishes(number)
    assert not profiles.stays(number)
    assert profiles.explodes(profiles.slope(profile("arm", -0.3), "arm"))
    assert profiles.stays(profiles.slope(profile("arm", 0.01), "arm"))


def test_a_curve_is_outside_only_if_more_than_a_twentieth_of_its_layers_are():
    samples = profile("arm", 0.3)
    samples["arm: delta_rms"][3] *= 10
    assert profiles.outside(samples, ["arm"]) == []
    samples["arm: delta_rms"][4] *= 10
    assert profiles.outside(samples, ["arm"]) == ["arm"]


def test_a_number_that_rounds_to_zero_has_no_sign():
    assert profiles.text(Number("x", -1e-9, -2e-9, 0.12345)) == "0.000 [0.000, 0.123]"
    assert profiles.text(Number("x", 1.25), 1) == "1.2"


def test_the_share_of_none_has_an_interval():
    number = shares.share("none", np.zeros(16))
    assert number.value == number.lower == 0
    assert number.upper == pytest.approx(1 - 0.025 ** (1 / 16))  # the solution of (1 - p)^16 = 0.025


def test_slopes_alone_are_what_the_network_has_without_weights():
    samples = {"identity, x: pre_rms": np.ones((5, R)), "relu, x: pre_rms": np.ones((5, R))}
    assert vanishing_product.by_slopes_alone(samples, "identity, x").value == pytest.approx(0, abs=1e-12)
    assert vanishing_product.by_slopes_alone(samples, "relu, x").value == pytest.approx(math.log10(2) / 2)


def test_the_largest_slopes_are_those_of_the_closed_forms():
    found = dict(zip(exploding_product.GUIDE, exploding_product.largest_slopes(), strict=True))

    def silu_slope(z: float) -> float:
        s = 1 / (1 + math.exp(-z))
        return s + z * s * (1 - s)

    silu = -optimize.minimize_scalar(lambda z: -silu_slope(z), bounds=(1, 5), method="bounded").fun
    z = math.sqrt(2)  # where GELU's second derivative, (2 - z^2) times the density, is 0
    assert found["gelu"] == pytest.approx(stats.norm.cdf(z) + z * stats.norm.pdf(z), rel=1e-9)
    assert found["silu"] == pytest.approx(silu, rel=1e-9)
    assert found["sigmoid"] == 0.25
    assert found["relu"] == found["leaky_relu"] == found["tanh"] == 1


# --- skips and norms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", fix_residual.KINDS)
def test_the_growth_through_skips_is_that_of_theory(kind: str):
    depth = 8
    overrides = [*fix_residual.overrides(kind, depth), *fix_residual.READ]
    if kind in (fix_residual.NO_SKIP, fix_residual.SMALL_SKIP):
        overrides.append("model.bias=false")
    if kind == fix_residual.NORMED:
        overrides.append("norm.eps=0")
    prediction = theory.predict(compose.compose(overrides), 2**-0.5)
    growth = float(2 * np.log(prediction.layer_gain).sum())
    assert growth == pytest.approx(fix_residual.expected(kind, np.array([float(depth)]))[0], abs=1e-6)


def test_the_statistics_of_a_layer_catch_a_wrong_divisor():
    values = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normalized = torch.nn.LayerNorm(16, eps=0, dtype=torch.float64)(values).detach()
    right = fix_layernorm.statistics(dict.fromkeys(fix_layernorm.PLACES, normalized))
    wrong = fix_layernorm.statistics({place: normalized * math.sqrt(15 / 16) for place in fix_layernorm.PLACES})
    assert right["error"].max() < 1e-14
    assert right["unbiased"] == pytest.approx(math.sqrt(16 / 15))
    assert wrong["error"].min() > 0.03
    assert right["units"] == pytest.approx(normalized.mean(1).abs().mean(-1).numpy())


def test_clipping_keeps_the_ratio_of_steps_and_a_broken_clip_is_caught(monkeypatch: pytest.MonkeyPatch):
    from lab.train.update import clipping

    shrink(monkeypatch)
    norms, ratios, _ = fix_clipping.one_step(2)
    assert norms.max() < fix_clipping.EXACT
    assert ratios.max() < fix_clipping.EXACT
    whole = clipping.clip

    def by_value(*arguments: object) -> None:
        whole(schema.ClipValue("value", 1e-5), *arguments[1:])  # type: ignore[arg-type]

    monkeypatch.setattr(clipping, "clip", by_value)
    norms, ratios, _ = fix_clipping.one_step(2)
    assert norms.max() > fix_clipping.EXACT
    assert ratios.max() > fix_clipping.EXACT


# --- recurrent networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ensemble", "radius"), [("gaussian", 1.0), ("symmetric", 2.0), ("orthogonal", 1.0)])
def test_an_ensemble_has_its_variance_and_its_spectral_radius(ensemble: str, radius: float):
    count, units = 20, 64
    drawn = rnn.ENSEMBLES[ensemble](np.random.default_rng(0), count, units)
    assert drawn.shape == (count, units, units)
    # The mean square of count n^2 entries of variance 1/n, of which symmetry leaves half: sqrt(2 * 2 / (count n^2)).
    assert np.mean(drawn**2) * units == pytest.approx(1, abs=3 * math.sqrt(4 / (count * units**2)))
    largest = np.abs(np.linalg.eigvals(drawn)).max(1).mean()
    assert largest == pytest.approx(radius, abs=0.1)  # finite size: of order n^(-1/2), here up to 8%
    settings = rnn.Recurrence(ensemble, 4.0, True, "tanh", 16, 3)
    (matrix,) = matrices_of(rnn.RecurrentNetwork(settings, two(), torch.float64), 1)
    assert rnn.log_radii(settings, 2)[1] == pytest.approx(math.log(np.abs(np.linalg.eigvals(matrix)).max()))


def two() -> list[Streams]:
    return [streams(networks.SEED, r) for r in range(2)]


def matrices_of(network: rnn.RecurrentNetwork, replica: int) -> list[Array]:
    """W_t of one replica, in the order of the steps."""
    named = dict(network.named_parameters())
    return [named[f"steps.{t}.weight"][replica].detach().numpy() for t in range(len(network.steps))]


@pytest.mark.parametrize("is_repeated", [True, False])
def test_the_gradient_in_time_is_the_product_of_the_jacobians(is_repeated: bool):
    settings = rnn.Recurrence("gaussian", 2.0, is_repeated, "tanh", 5, 7)
    found = rnn.gradient_in_time(settings, 2, batch=3)
    own = two()
    network = rnn.RecurrentNetwork(settings, own, torch.float64)
    for replica, stream in enumerate(own):
        x, _ = rnn.adding(stream.batches, 3, 7)
        into = network.into.weight[replica].detach().numpy()  # the biases start at 0
        matrices = matrices_of(network, replica) * (6 if is_repeated else 1)
        slopes, h = [], np.zeros((3, 5))
        for t in range(7):
            h = np.tanh((h @ matrices[t - 1] if t else 0) + x[:, t] @ into)
            slopes.append(1 - h**2)
        delta = stream.cotangents.standard_normal((3, 5)) * slopes[-1]
        for t in range(6, -1, -1):
            assert found[t, replica] == pytest.approx(np.sqrt(np.mean(delta**2)), rel=1e-12)
            delta = delta @ matrices[t - 1].T * slopes[t - 1] if t else delta


def test_the_gradient_of_a_repeated_matrix_is_the_sum_over_its_uses():
    grads = []
    for is_repeated in (True, False):
        network = rnn.RecurrentNetwork(rnn.Recurrence("identity", 1.0, is_repeated, "tanh", 4, 6), two(), torch.float64)
        x = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 6, 2)))
        matrices = [value for name, value in network.named_parameters() if name.startswith("steps")]
        grads.append(torch.stack(torch.autograd.grad(network(x).square().sum(), matrices)).sum(0))
    torch.testing.assert_close(grads[0], grads[1])
    assert len(network.steps) == 5  # nothing precedes the first step


def test_the_adding_problem_marks_one_number_in_each_half():
    x, y = rnn.adding(np.random.default_rng(0), 20_000, 10)
    marks = x[..., 1]
    assert np.all(marks[:, :5].sum(1) == 1)
    assert np.all(marks[:, 5:].sum(1) == 1)
    np.testing.assert_allclose(y, (x[..., 0] * marks).sum(1))
    assert np.all(marks.mean(0) > 0)
    # The error of always answering 1: variance 1/6, whose estimate scatters by sqrt((E d^4 - 1/36) / n) = 0.0014.
    assert np.mean((y - 1) ** 2) == pytest.approx(rnn.GUESSING, abs=3 * 0.0014)


def test_training_is_what_torch_makes_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rnn, "TRAINING", 64)
    monkeypatch.setattr(rnn, "HELD_OUT", 32)
    settings, steps, rates, limits = (
        rnn.Recurrence("identity", 1.0, True, "relu", 5, 6),
        12,
        [0.05, 0.02],
        [0.5, np.inf],
    )
    found = rnn.train(settings, np.array(rates), np.array(limits), [3, 4], steps, 6, batch=8)
    assert found["steps"].tolist() == [0, 6, 12]
    x, y = (torch.from_numpy(part).float() for part in rnn.adding(np.random.default_rng(rnn.DATA_SEED), 96, 6))
    for replica, (rate, limit) in enumerate(zip(rates, limits, strict=True)):
        own = streams(networks.SEED, 3 + replica)
        drawn = rnn.RecurrentNetwork(settings, [own])
        cell: Any = torch.nn.RNN(2, 5, nonlinearity="relu", batch_first=True)
        head = torch.nn.Linear(5, 1)
        with torch.no_grad():
            cell.weight_ih_l0.copy_(drawn.into.weight[0].T)
            cell.weight_hh_l0.copy_(torch.from_numpy(matrices_of(drawn, 0)[0].T))
            head.weight.copy_(drawn.readout.weight[0].T)
            for bias in (cell.bias_ih_l0, cell.bias_hh_l0, head.bias):
                bias.zero_()
        cell.bias_hh_l0.requires_grad_(False)
        parameters = [p for p in (*cell.parameters(), *head.parameters()) if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=rate)

        def error(rows: Any, cell: Any = cell, head: torch.nn.Linear = head) -> torch.Tensor:
            return (head(cell(x[rows])[0][:, -1])[:, 0] - y[rows]).square().mean()

        order, norms, losses = np.concatenate([own.batches.permutation(64) for _ in range(2)]), [], []
        for step in range(steps + 1):
            if step % 6 == 0:
                losses.append(error(slice(64, 96)).item())
            optimizer.zero_grad()
            error(order[8 * step : 8 * step + 8]).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, limit, error_if_nonfinite=True).item())
            optimizer.step()
        assert found["loss"][:, replica] == pytest.approx(losses, rel=1e-4)
        assert found["growth"][replica] == pytest.approx(max(norms[:steps]) / norms[0], rel=1e-4)


def test_a_training_that_diverges_is_marked_and_its_neighbour_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rnn, "TRAINING", 64)
    monkeypatch.setattr(rnn, "HELD_OUT", 16)
    settings = rnn.Recurrence("identity", 1.0, True, "relu", 4, 6)
    found = rnn.train(settings, np.array([1e6, 1e-3]), np.array([np.inf, np.inf]), [0, 1], 8, 8)
    alone = rnn.train(settings, np.array([1e-3]), np.array([np.inf]), [1], 8, 8)
    assert np.isinf(found["growth"][0])
    assert np.isnan(found["loss"][-1, 0])
    assert found["loss"][:, 1] == pytest.approx(alone["loss"][:, 0], rel=1e-4)


def test_mean_field_theory_knows_relu_and_small_signals():
    half_log = np.log(np.array(recurrent.WEIGHT_VARS)) / 2
    np.testing.assert_allclose(recurrent.mean_field("relu"), half_log - math.log(2) / 2)
    np.testing.assert_allclose(recurrent.mean_field("identity"), half_log)
    assert np.all(recurrent.mean_field("tanh") < half_log)


def test_the_growth_through_gaussian_matrices_is_that_of_their_chi_squared_norms():
    rng, units, draws = np.random.default_rng(0), 16, 20_000
    logs = np.log(np.linalg.norm(rng.normal(0, 1 / math.sqrt(units), (draws, units)), axis=1))
    assert recurrent._lyapunov(units) == pytest.approx(logs.mean(), abs=3 * logs.std() / math.sqrt(draws))


RECORDED: dict[str, Verdict] = {
    "vanishing-product": Verdict.CONDITION,
    "frozen-early-layers": Verdict.CONDITION,
    "exploding-product": Verdict.CONDITION,
    "exploding-rnn": Verdict.CONDITION,
    "fix-activation": Verdict.CONDITION,
    "fix-init": Verdict.CONDITION,
    "fix-clipping": Verdict.CONDITION,
    "fix-batchnorm": Verdict.CONDITION,
    "fix-layernorm": Verdict.CONDITION,
    "fix-residual": Verdict.CONDITION,
}
"""What the full run gave."""
