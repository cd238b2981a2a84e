"""The training loop: a record at every reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from lab import schema
from lab.data import Dataset
from lab.readings import Record
from lab.train.trainer import Trainer


def train(
    config: schema.Config,
    dataset: Dataset,
    device: torch.device,
    variants: Sequence[schema.Config] | None = None,
    start: Mapping[str, Any] | None = None,
    between: Callable[[Trainer], None] | None = None,
) -> Iterator[Record]:
    """Train and yield a record at every reading; the run ends early when every replica has diverged.

    A reading at step s is taken on the batch of step s before its update. The last one, at s = steps, makes no update.

    Args:
        config: the run.
        dataset: tensors on `device`.
        device: where to compute.
        variants: each replica's own configuration, which differs from `config` in `schema.PER_REPLICA` at most.
        start: the `Trainer.state` to go on from.
        between: called before every step; what it raises ends the run there.
    """
    trainer = Trainer(config, dataset, device, variants)
    if start is not None:
        trainer.restore(start)
    for step in range(trainer.steps, config.steps + 1):
        if between is not None:
            between(trainer)
        is_reading = is_due(step, config.probe.every, config.steps)
        is_evaluated = is_reading and is_due(step, config.probe.eval_every, config.steps)
        has_jacobian = is_reading and config.probe.jacobian and is_due(step, config.probe.jacobian_every)
        record = trainer.step(is_reading, is_evaluated, has_update=step < config.steps, has_jacobian=has_jacobian)
        if record is not None:
            yield record
            if (record.diverged_at >= 0).all():
                return


def is_due(step: int, every: int, last: int = 0) -> bool:
    """Whether something at a cadence happens at this step: the first, the last, and every multiple."""
    return step in (0, last) or (every > 0 and step % every == 0)
