"""Section 4.3: randomness of RReLU's slope in training, and its value in evaluation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from experiments.claims.claim import Claim, Judgement, Number, Samples, Scale, Verdict
from experiments.claims.panels import label, legend_below, panels
from experiments.claims.statistics import interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWER, UPPER = 1 / 8, 1 / 3
MEAN = (LOWER + UPPER) / 2
SECOND_MOMENT = (LOWER**2 + LOWER * UPPER + UPPER**2) / 3
DRAWS = (500, 100)
"""Examples and units of a pass, one slope each."""
FARTHEST = 4.0
"""Allowed deviation from theory in standard errors."""
UNLIKELY = 1e-4
"""Smallest p-value of the test for uniform slopes that counts as chance."""
PASSES = 400
DEPTHS = (1, 6)
ARMS = {
    f"{depth} layers": ("activation=rrelu", "init=he_normal", "data=digits", f"model.depth={depth}", "model.width=32")
    for depth in DEPTHS
}


def measure(scale: Scale) -> Samples:
    """Measure slopes in two training passes and in evaluation, and the mean output of many training passes."""
    import torch

    from experiments.claims import dead_units
    from lab import schema
    from lab.machine.threads import thread_budget
    from lab.network import activations

    replicas = scale.replicas
    generators = [torch.Generator().manual_seed(number) for number in range(replicas)]
    layer = activations.build(schema.RReLU("rrelu", LOWER, UPPER), replicas, generators)
    z = -torch.ones(replicas, *DRAWS, dtype=torch.float64)
    with torch.no_grad(), thread_budget(1):
        first, second = (-layer(z).flatten(1).numpy() for _ in range(2))  # (R, draws), the slopes
        is_positive_kept = bool((layer(-z) == -z).all())
        layer.eval()
        fixed, again = (-layer(z).flatten(1).numpy() for _ in range(2))
        samples = {
            "mean": first.mean(1),
            "second_moment": (first**2).mean(1),
            "p_uniform": np.array([stats.kstest(row, stats.uniform(LOWER, UPPER - LOWER).cdf).pvalue for row in first]),
            "correlation": np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]),
            "fixed_lowest": fixed.min(1),
            "fixed_highest": fixed.max(1),
            "fixed_changes": np.abs(fixed - again).max(1),
            "positive_kept": np.array([float(is_positive_kept)]),
            "histogram": np.histogram(first, bins=np.linspace(LOWER, UPPER, 21))[0] / first.size,
        }
        for depth in DEPTHS:
            trainer = dead_units.start(ARMS[f"{depth} layers"], replicas)
            network, x = trainer.network, trainer.instrument.probe_set
            outputs = torch.stack([network(x).double() for _ in range(PASSES)])  # (passes, R, B, classes)
            with network.evaluating():
                evaluated = network(x).double()
            gap = (outputs.mean(0) - evaluated).square().mean((1, 2))
            noise = outputs.var(0).mean((1, 2)) / PASSES  # remaining variance of the mean
            samples[f"gap_{depth}"] = ((gap - noise) / evaluated.square().mean((1, 2))).numpy()
    return samples


def judge(samples: Samples) -> Judgement:
    """Apply the rule: moments, distribution and independence of the slopes in training; a fixed slope in evaluation."""
    count = DRAWS[0] * DRAWS[1]
    variance = SECOND_MOMENT - MEAN**2
    fourth = sum(LOWER**i * UPPER ** (4 - i) for i in range(5)) / 5
    errors = {"mean": math.sqrt(variance / count), "second_moment": math.sqrt((fourth - SECOND_MOMENT**2) / count)}
    expected = {"mean": MEAN, "second_moment": SECOND_MOMENT}
    replicas = len(samples["mean"])
    distance = {
        name: abs(float(samples[name].mean()) - expected[name]) / (errors[name] / math.sqrt(replicas))
        for name in errors
    }
    distance["correlation"] = abs(float(samples["correlation"].mean())) * math.sqrt(count * replicas)
    p_value = float(stats.combine_pvalues(samples["p_uniform"]).pvalue)
    fixed = (float(samples["fixed_lowest"].min()), float(samples["fixed_highest"].max()))
    gaps = [
        interval(
            f"squared distance of the mean training output from evaluation's, depth {depth}",
            samples[f"gap_{depth}"],
            "of the output's square",
            0.0 if depth == 1 else None,
        )
        for depth in DEPTHS
    ]
    numbers = (
        interval("mean slope in training", samples["mean"], "", MEAN),
        interval("mean squared slope in training", samples["second_moment"], "", SECOND_MOMENT),
        Number("p-value of the slopes being uniform (all replicas)", p_value),
        interval("correlation of a slope in two passes", samples["correlation"], "", 0.0),
        Number("slope in evaluation", fixed[0], predicted=MEAN),
        Number("largest change of a slope from one evaluation to the next", float(samples["fixed_changes"].max())),
        Number("evaluation's slope in the paper, 1 / 5.5", 1 / 5.5),
        Number("mean slope in training in the paper, ln(8/3) / 5", math.log(8 / 3) / 5),
        *gaps,
    )
    missed = math.sqrt(max(0.0, gaps[1].value))
    reason = (
        f"Slopes in training: mean {samples['mean'].mean():.4f} (uniform in [1/8, 1/3]: {MEAN:.4f}), at most"
        f" {max(distance.values()):.1f} standard errors from theory, p = {p_value:.2f} for uniform, uncorrelated"
        f" between passes. In evaluation every slope is {fixed[0]:.4f} and stays so. The mean output of {PASSES}"
        f" training passes is evaluation's with one hidden layer and misses it by {missed:.1%} with"
        f" {DEPTHS[1]}."
    )
    is_random = all(d <= FARTHEST for d in distance.values()) and p_value >= UNLIKELY
    is_fixed = samples["fixed_changes"].max() == 0 and max(abs(slope - MEAN) for slope in fixed) < 1e-12
    is_right = is_random and is_fixed and samples["positive_kept"].all()
    return Judgement(Verdict.HOLDS if is_right else Verdict.FAILS, reason, numbers)


def draw(figure: Figure, samples: Samples) -> None:
    """Plot the histogram of slopes in training, and the slope in evaluation."""
    from lab.plot.style import COLOURS

    (ax,) = panels(figure)
    edges = np.linspace(LOWER, UPPER, 21)
    density = samples["histogram"] / np.diff(edges)
    ax.stairs(density, edges, fill=True, color=COLOURS[5], label="training: drawn for each unit and example")
    ax.plot([LOWER, UPPER], [1 / (UPPER - LOWER)] * 2, "--", color="black", label="uniform in [1/8, 1/3]")
    ax.axvline(MEAN, color=COLOURS[1], linewidth=2, label=f"evaluation: {MEAN:.4f}")
    ax.set_xlim(0.1, 0.36)
    ax.set_ylim(0, 6)
    legend_below(figure, [ax], 2)
    label(ax, "slope below 0", "density of slopes (per unit of slope)")


RANDOM = Claim(
    id="rrelu-random",
    section="4.3",
    statement="RReLU draws its slope at random in training, from a uniform distribution, and fixes it for testing.",
    limit=(
        "The lab, like torch, fixes the mean slope. That makes evaluation the mean of the training outputs with one"
        " hidden layer only. (The paper draws 1/slope uniformly in [3, 8] and tests with 1/5.5, which is not its mean"
        " slope.)"
    ),
    source="Xu et al. 2015, section 2.4",
    quantity=f"slopes of {DRAWS[0] * DRAWS[1]} entries per replica in two training passes and two evaluations",
    rule=(
        f"Holds if mean, mean square and correlation between passes lie within {FARTHEST:g} standard errors of a"
        f" uniform law's, a Kolmogorov-Smirnov test does not refute it (p at least {UNLIKELY:g}), positive inputs pass"
        " unchanged, and in evaluation every slope is the mean to 1e-12 and never changes; else fails."
    ),
    caption="The slopes of RReLU in training, and the one of evaluation.",
    measure=measure,
    judge=judge,
    draw=draw,
    arms=ARMS,
    shown_with=dict.fromkeys(ARMS, ("steps=0",)),
)
