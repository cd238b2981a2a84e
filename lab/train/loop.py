"""The training loop: a record at every reading."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from lab import schema
from lab.data import Dataset
from lab.readings import Record
from lab.train.trainer import Due, Trainer


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
        dataset, device: the data, and the device that it is on and that trains.
        variants: each replica's own configuration, which differs from `config` in `schema.PER_REPLICA` at most.
        start: the `Trainer.state` to resume from.
        between: called before every step; an exception that it raises ends the run.
    """
    trainer = Trainer(config, dataset, device, variants)
    if start is not None:
        trainer.restore(start)
    for step in range(trainer.steps, config.steps + 1):
        if between is not None:
            between(trainer)
        record = trainer.step(due(config, step))
        if record is not None:
            yield record
            if (record.diverged_at >= 0).all():
                return


def due(config: schema.Config, step: int) -> Due:
    """Decide what is measured at a step; every step but the last one updates the parameters."""
    probe, is_last = config.probe, step == config.steps
    is_reading = is_last or is_due(step, probe.every)
    return Due(
        reading=is_reading,
        evaluation=is_reading and (is_last or is_due(step, probe.eval_every)),
        jacobian=is_reading and probe.jacobian and is_due(step, probe.jacobian_every),
        update=not is_last,
    )


def is_due(step: int, every: int) -> bool:
    """Return True at step 0 and at every multiple of a cadence, which 0 switches off."""
    return step == 0 or (every > 0 and step % every == 0)
