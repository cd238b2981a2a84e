"""What a training step asks of the host and the device, and that a long run keeps its memory."""

import gc
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lab import data
from lab.network import network
from lab.train import loop
from lab.train import trainer as trainer_module
from lab.train.trainer import Due, Trainer
from tests.plain_torch import CPU
from tests.short_runs import every_network, load, make, train


class HostReads(TorchDispatchMode):
    """Counts how often the host asks for a tensor's value."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        for name in ("numpy", "tolist", "__array__", "cpu"):
            monkeypatch.setattr(torch.Tensor, name, self.counting(getattr(torch.Tensor, name)))

    def counting(self, method):
        def counted(*args, **options):
            self.count += 1
            return method(*args, **options)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name() == "aten::_local_scalar_dense"
        return func(*args, **(kwargs or {}))


def test_host_reads_are_counted_here(monkeypatch):
    with HostReads(monkeypatch) as reads:
        x = torch.ones(3)
        assert bool(x.sum() > 0)
        assert x.sum().item() == 3
        assert x.tolist() == [1, 1, 1]
        x.numpy()
    assert reads.count == 4


@every_network
def test_between_readings_the_number_of_host_reads_does_not_grow_with_depth(choices, monkeypatch):
    counts = []
    for depth in (3, 40):
        model = {**choices.get("model", {"width": 6}), "depth": depth}
        config = make(**{**choices, "model": model})
        trainer = Trainer(config, load(config), CPU)
        trainer.step(Due(reading=True))
        with HostReads(monkeypatch) as reads:
            for _ in range(3):
                trainer.step()
        counts.append(reads.count)
    assert counts[0] == counts[1]
    if config.clip.name in ("none", "value"):
        assert counts[0] == 2 * 3  # two a step, which on the CPU cost nothing


class HostTensors(TorchDispatchMode):
    """Writes down operations on tensors in the host's memory: off the CPU, each of them may wait for the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(isinstance(leaf, torch.Tensor) and not leaf.is_meta for leaf in tree_leaves((args, kwargs))):
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


@every_network
@pytest.mark.parametrize("which", ["full", "norms"])
def test_off_the_cpu_neither_a_step_nor_a_reading_asks_for_a_number_before_it_is_fetched(choices, which, monkeypatch):
    """A tensor on the meta device has no numbers: there, whatever would make a GPU wait is an error."""
    if choices.get("activation") == "rrelu":
        pytest.skip("the meta device draws no random numbers")
    monkeypatch.setattr(network, "torch_generator", lambda stream, device: None)
    fetched = []

    def fetch(step, loss, measured, fates, *rest):
        fetched.append({"loss": loss, **measured, **fates})

    monkeypatch.setattr(trainer_module, "fetch", fetch)
    config, meta = make(probe={"set": which}, **choices), torch.device("meta")
    here = load(config)
    tensors = {name: value.to(meta) for name, value in vars(here).items() if isinstance(value, torch.Tensor)}
    there = replace(here, **tensors)
    trainer = Trainer(config, there, meta)
    trainer.step(Due(reading=True))  # draws the batches of many steps, too
    with HostTensors() as operations:
        for step in range(6):
            trainer.step(Due(reading=step % 3 == 0, evaluation=step == 0))
    assert operations.seen == []
    assert len(fetched) == 3
    for name, value in fetched[1].items():
        assert value.is_meta, name
        assert value.shape in ((3,), (config.model.depth, 3)), name


@every_network
@pytest.mark.parametrize("which", ["full", "norms"])
def test_everything_is_made_on_the_networks_own_device(choices, which):
    """Whatever is made without saying where now lands on the meta device, and cannot be mixed with the rest."""
    trainer = Trainer(make(probe={"set": which}, **choices), load(make()), CPU)
    trainer.step(Due(reading=True, evaluation=True))
    with torch.device("meta"):
        assert torch.ones(1).is_meta
        trainer.step()
        assert trainer.step(Due(reading=True, evaluation=True)) is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
@every_network
def test_a_step_on_a_gpu_waits_for_nothing_and_a_reading_once(choices, monkeypatch):
    device = torch.device("cuda")
    config = make(**choices)
    trainer = Trainer(config, data.load(config.data, torch.float32, device), device)
    trainer.step(Due(reading=True, evaluation=True))  # libraries are loaded, working memory is allocated
    waits: list[None] = []

    def fetch(*args, original=trainer_module.fetch):
        torch.cuda.set_sync_debug_mode("default")
        waits.append(None)
        try:
            return original(*args)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(trainer_module, "fetch", fetch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(6):
            trainer.step(Due(reading=step % 3 == 0, evaluation=step == 0))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
@every_network
def test_a_gpu_reads_what_a_cpu_reads(choices):
    if choices.get("activation") == "rrelu":
        pytest.skip("the two draw different slopes")
    config = make(dtype="float64", **choices)
    device = torch.device("cuda")
    there = list(loop.train(config, data.load(config.data, torch.float64, device), device))
    for mine, theirs in zip(there, train(config)[0], strict=True):
        expected = {**theirs.layers, **theirs.scalars}
        for name, values in {**mine.layers, **mine.scalars}.items():
            np.testing.assert_allclose(values, expected[name], 1e-7, 1e-10, err_msg=name)


def alive_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.slow
def test_a_long_run_keeps_its_memory():
    config = make(
        steps=10_000, model={"depth": 2, "width": 4}, batch_size=4, replicas=2, probe={"every": 50, "eval_every": 500}
    )
    tensors, peaks = [], []
    for record in loop.train(config, load(config), CPU):
        if record.step in (2000, 10_000):
            tensors.append(alive_tensors())
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert tensors[0] == tensors[1]
    assert peaks[1] - peaks[0] < 4096  # KiB: 8000 steps that kept a kilobyte each would take 8


def test_a_run_that_is_left_early_leaves_nothing_behind():
    before = alive_tensors()
    records = loop.train(make(), load(make()), CPU)
    next(records)
    assert alive_tensors() > before
    del records
    assert alive_tensors() == before
