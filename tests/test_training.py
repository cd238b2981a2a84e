"""The training loop: what a reading may change or a replica may change in another (nothing), and how a run ends."""

import gc
import itertools
import resource
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lab import data, instrument, network, training
from lab.data import Batches
from lab.parameters import Parameters
from lab.seeding import streams
from lab.training import Trainer, Watch, is_due
from tests.plain_torch import CPU, blocks, build, configure

DATA = {"name": "gaussian", "examples": 60, "features": 4, "classes": 3}

NETWORKS: dict[str, dict[str, Any]] = {
    "relu, sgd": {},
    "random slopes, adam": {"activation": "rrelu", "optimizer": {"name": "adam", "lr": 0.01}},
    "batch norm, clip=norm": {"norm": "batch", "clip": {"name": "norm", "max_norm": 0.05}},
    "gated, momentum, clip=adaptive": {
        "activation": "swiglu",
        "norm": {"name": "rms", "place": "post"},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "clip": {"name": "adaptive", "factor": 0.05},
    },
    "residual ffn, rmsprop, clip=value": {
        "activation": "gelu",
        "residual": "rezero",
        "norm": {"name": "layer", "place": "pre"},
        "optimizer": {"name": "rmsprop", "lr": 0.003},
        "clip": {"name": "value", "max_value": 0.01},
        "model": {"depth": 3, "width": 6, "block": "ffn"},
    },
    "learnt slope, adamw": {"activation": "prelu", "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}},
}
every_network = pytest.mark.parametrize("choices", NETWORKS.values(), ids=list(NETWORKS))


def make(**choices):
    standard: dict[str, Any] = {
        "replicas": 3,
        "steps": 12,
        "batch_size": 8,
        "data": DATA,
        "probe": {"every": 5, "eval_every": 10, "examples": 5},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "model": {"depth": 4, "width": 6},
    }
    return configure(**{**standard, **choices})


def load(config):
    return data.load(config.data, getattr(torch, config.dtype), CPU)


def train(config, before_step=lambda trainer: None):
    """The records of a run, and the trainer as it was at the end; `before_step` may interfere."""
    made = []

    class Watched(Trainer):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

        def step(self, *args, **options):
            before_step(self)
            return super().step(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Trainer", Watched)
        records = list(training.train(config, load(config), CPU))
    (trainer,) = made
    return records, trainer


def state(trainer, replicas=slice(None)):
    """Parameters and running statistics of some replicas, as integers: bit for bit."""
    parameters = [run.values[:, replicas] for run in trainer.parameters.runs]
    tensors = [*parameters, *(buffer[replicas] for buffer in trainer.network.buffers())]
    integers = {torch.float32: torch.int32, torch.float64: torch.int64}
    return [tensor.contiguous().view(integers[tensor.dtype]).clone() for tensor in tensors]


def are_same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def assert_same_readings(first, second, pick=slice(None)):
    """Every number of every record, to the last bit, of the picked replicas."""
    assert [record.step for record in first] == [record.step for record in second]
    for mine, theirs in zip(first, second, strict=True):
        assert set(mine.layers) == set(theirs.layers)
        assert set(mine.scalars) == set(theirs.scalars)
        for name, values in (mine.layers | mine.scalars).items():
            np.testing.assert_array_equal(values[..., pick], (theirs.layers | theirs.scalars)[name][..., pick], name)
        np.testing.assert_array_equal(mine.diverged_at[pick], theirs.diverged_at[pick])


# --- what a run is --------------------------------------------------------------------------------------------------


def test_a_network_learns():
    config = configure(
        model={"depth": 3, "width": 32}, optimizer={"name": "adam", "lr": 0.01}, steps=60, batch_size=64, replicas=2
    )
    last = train(config)[0][-1]
    assert (last.scalars["eval_accuracy"] > 0.85).all()  # of 10 digits
    assert (last.scalars["loss"] < 0.5).all()


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(12, 5, [0, 5, 10, 12]), (10, 5, [0, 5, 10]), (3, 0, [0, 3]), (3, 1, [0, 1, 2, 3]), (4, 100, [0, 4]), (0, 7, [0])],
)
def test_readings_are_taken_at_the_first_the_last_and_every_multiple(steps, every, expected):
    records, trainer = train(make(steps=steps, probe={"every": every}))
    assert [record.step for record in records] == expected
    assert trainer.steps == steps
    assert list(itertools.accumulate((record.seconds for record in records), max)) == [r.seconds for r in records]


@pytest.mark.parametrize(
    ("eval_every", "expected"), [(0, [0, 12]), (10, [0, 10, 12]), (4, [0, 12]), (1, [0, 5, 10, 12])]
)
def test_held_out_data_is_evaluated_at_readings_that_are_due(eval_every, expected):
    records, _ = train(make(probe={"every": 5, "eval_every": eval_every}))
    for record in records:
        for name in ("eval_loss", "eval_accuracy"):
            assert np.isfinite(record.scalars[name]).all() == (record.step in expected)


@pytest.mark.parametrize(
    ("step", "every", "last", "expected"), [(0, 0, 9, 1), (9, 0, 9, 1), (4, 0, 9, 0), (4, 2, 9, 1)]
)
def test_what_is_due(step, every, last, expected):
    assert is_due(step, every, last) == expected


@every_network
def test_no_steps_means_one_reading_and_no_update(choices):
    config = make(steps=0, **choices)
    records, trainer = train(config)
    untouched = build(config, 4, 3)
    assert [record.step for record in records] == [0]
    for (name, mine), theirs in zip(trainer.network.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert np.isnan(records[0].layers["update_ratio"]).all()
    assert np.isfinite(records[0].layers["weight_grad_norm"]).all()


def test_the_last_reading_makes_no_update():
    records, trainer = train(make(steps=5))
    _, longer = train(make(steps=9), before_step=lambda t: None)
    kept = []
    train(make(steps=9), before_step=lambda t: kept.append(state(t)))
    assert are_same(state(trainer), kept[5])
    assert not are_same(state(longer), kept[5])
    assert np.isnan(records[-1].layers["update_ratio"]).all()
    assert not np.isnan(records[0].layers["update_ratio"]).any()


@pytest.mark.parametrize("rows", [1, 5, 12, 1000])
def test_held_out_data_in_parts_is_the_same_as_at_once(rows, monkeypatch):
    config = make(dtype="float64")
    trainer = Trainer(config, load(config), CPU)
    whole = training.evaluate(trainer.network, trainer.dataset)
    monkeypatch.setattr(training, "EVAL_ROWS", rows)
    for name, values in training.evaluate(trainer.network, trainer.dataset).items():
        torch.testing.assert_close(values, whole[name], rtol=1e-13, atol=0)


# --- bit for bit ----------------------------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_configuration_twice_is_the_same_to_the_last_bit(choices, dtype):
    (first, mine), (second, theirs) = (train(make(dtype=dtype, **choices)) for _ in range(2))
    assert_same_readings(first, second)
    assert are_same(state(mine), state(theirs))


def test_another_seed_is_another_run():
    (_, first), (_, second) = (train(make(seed=seed)) for seed in (0, 1))
    assert not are_same(state(first), state(second))


LOOKS = [
    {"every": 0, "eval_every": 0},
    {"every": 0, "eval_every": 0, "set": "norms", "examples": 60},
    {"every": 1, "eval_every": 1},
    {"every": 1, "eval_every": 0, "set": "norms"},
    {"every": 4, "eval_every": 8, "examples": 2},
]


@every_network
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_looking_changes_no_bit_of_losses_and_parameters(choices, dtype):
    runs = [train(make(dtype=dtype, probe=look, **choices)) for look in LOOKS]
    losses = [{record.step: record.scalars["loss"] for record in records} for records, _ in runs]
    for mine, (_, trainer) in zip(losses, runs, strict=True):
        for step in mine.keys() & losses[2].keys():
            np.testing.assert_array_equal(mine[step], losses[2][step])
        assert are_same(state(trainer), state(runs[0][1]))
    assert len(losses[2]) == 13


def test_looking_at_a_network_of_many_chunks_changes_no_bit_of_its_clipped_training(monkeypatch):
    monkeypatch.setattr(instrument, "GROUP_BYTES", 40_000)
    choices = {"model": {"depth": 7, "width": 70}, "clip": {"name": "norm", "max_norm": 0.01}, "replicas": 2}
    (_, blind), (_, watched) = (train(make(probe={"every": every}, **choices)) for every in (0, 1))
    assert are_same(state(blind), state(watched))


# --- replicas -------------------------------------------------------------------------------------------------------


@every_network
def test_a_replica_is_the_same_replica_run_alone(choices):
    choices = {"dtype": "float64", "seed": 7, **choices}
    together, trainer = train(make(replicas=3, first_replica=1, **choices))
    for replica in range(3):
        alone, single = train(make(replicas=1, first_replica=1 + replica, **choices))
        for mine, theirs in zip(together, alone, strict=True):
            for name, values in (mine.layers | mine.scalars).items():
                expected = (theirs.layers | theirs.scalars)[name][..., 0]
                np.testing.assert_allclose(values[..., replica], expected, 1e-9, 1e-12, err_msg=name)
        for mine, theirs in zip(trainer.parameters.runs, single.parameters.runs, strict=True):
            torch.testing.assert_close(mine.values[:, replica], theirs.values[:, 0], rtol=1e-9, atol=1e-11)
    assert not np.allclose(together[-1].scalars["loss"][0], together[-1].scalars["loss"][1:])


def test_a_replicas_batches_do_not_depend_on_how_many_replicas_there_are():
    dataset = load(make())
    together = Batches(dataset, 7, [streams(0, replica).batches for replica in (2, 5, 9)])
    alone = Batches(dataset, 7, [streams(0, 5).batches])
    for _ in range(30):
        (x, y), (one_x, one_y) = together.next(), alone.next()
        assert torch.equal(x[1:2], one_x)
        assert torch.equal(y[1:2], one_y)


# --- divergence -----------------------------------------------------------------------------------------------------


def at(step, interfere):
    """Do something to a trainer before its given step."""
    return lambda trainer: interfere(trainer) if trainer.steps == step else None


@torch.no_grad()
def blow_up(trainer):
    """Replica 1's parameters become infinite, so that the next forward pass gives NaN."""
    for run in trainer.parameters.runs:
        run.values[:, 1] *= torch.inf


def spoil_gradient(layer, replica, poison):
    """Make one entry of a layer's weight gradient non-finite, in every step from now on."""

    def spoil(gradient):
        gradient = gradient.clone()
        gradient[replica, 0, 0] = poison
        return gradient

    return lambda trainer: blocks(trainer.network)[layer].up.weight.register_hook(spoil)


@every_network
@pytest.mark.parametrize("step", [0, 3, 5])  # at the first reading, between two, at one
def test_a_diverged_replica_is_marked_frozen_and_harmless(choices, step):
    kept = []

    def interfere(trainer):
        if trainer.steps == step:
            blow_up(trainer)
            kept.append(state(trainer, [1]))

    records, trainer = train(make(**choices), interfere)
    undisturbed, healthy = train(make(**choices))
    others = [0, 2]
    assert_same_readings(records, undisturbed, others)
    assert are_same(state(trainer, others), state(healthy, others))
    parameters = len(trainer.parameters.runs)
    assert are_same(state(trainer, [1])[:parameters], kept[0][:parameters])
    for record in records:
        assert record.diverged_at.tolist() == [-1, step if record.step >= step else -1, -1]
        assert np.isfinite(record.scalars["loss"][[0, 2]]).all()
    assert [record.step for record in records] == [0, 5, 10, 12]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("step", [0, 3, 5])
@every_network
def test_one_gradient_entry_that_is_not_finite_is_noticed_on_any_step_and_its_layer_named(choices, step, poison):
    kept = []
    config = make(**choices)
    train(config, lambda trainer: kept.append(state(trainer)))
    records, trainer = train(config, at(step, spoil_gradient(2, 1, poison)))
    parameters = len(trainer.parameters.runs)
    frozen = [tensor[:, 1] for tensor in kept[step][:parameters]]
    assert are_same([tensor[:, 0] for tensor in state(trainer, [1])[:parameters]], frozen)
    assert are_same(
        [tensor[:, [0, 2]] for tensor in state(trainer)[:parameters]], [t[:, [0, 2]] for t in kept[-1][:parameters]]
    )
    for record in records:
        is_over = record.step >= step
        assert record.diverged_at.tolist() == [-1, step if is_over else -1, -1]
        assert record.diverged_layer.tolist() == [-1, 2 if is_over else -1, -1]
        assert record.layers["nonfinite"][:, 1].tolist() == [0, 0, int(is_over), 0][: config.model.depth]
        assert not record.layers["nonfinite"][:, [0, 2]].any()
        if is_over:
            assert record.layers["update_ratio"][:, 1].max() == 0 or record.step == 12


def test_of_several_layers_the_one_nearest_the_loss_is_named_as_it_was_when_it_happened():
    def interfere(trainer):
        if trainer.steps == 2:
            spoil_gradient(1, 0, torch.nan)(trainer)
            spoil_gradient(2, 0, torch.nan)(trainer)
        if trainer.steps == 6:
            spoil_gradient(3, 0, torch.nan)(trainer)  # when it has diverged long ago

    last = train(make(), interfere)[0][-1]
    assert last.diverged_at.tolist() == [2, -1, -1]
    assert last.diverged_layer.tolist() == [2, -1, -1]


def test_where_only_the_readout_or_the_loss_is_not_finite_no_layer_is_named(monkeypatch):
    def interfere(trainer):
        if trainer.steps == 4:
            trainer.network.readout.bias.register_hook(lambda gradient: gradient * torch.nan)

    last = train(make(), interfere)[0][-1]
    assert last.diverged_at.tolist() == [4, 4, 4]
    assert last.diverged_layer.tolist() == [-1, -1, -1]

    def spoiled(logits, y, cross_entropy=training.cross_entropy):
        loss = cross_entropy(logits, y)
        return loss + torch.tensor([0.0, torch.inf, 0.0])  # the gradient stays finite

    monkeypatch.setattr(training, "cross_entropy", spoiled)
    last = train(make())[0][-1]
    assert last.diverged_at.tolist() == [-1, 0, -1]
    assert last.diverged_layer.tolist() == [-1, -1, -1]


def test_a_replica_that_diverged_never_comes_back():
    def interfere(trainer):
        if trainer.steps == 2:
            trainer.handle = spoil_gradient(0, 1, torch.nan)(trainer)
        if trainer.steps == 3:
            trainer.handle.remove()

    records, _ = train(make(), interfere)
    assert records[-1].diverged_at.tolist() == [-1, 2, -1]
    assert not records[-1].layers["nonfinite"].any()
    assert (records[-1].layers["weight_grad_norm"] > 0).all()


def test_the_run_ends_when_all_have_diverged_and_not_before():
    def spoil(*replicas):
        def hook(gradient):
            gradient = gradient.clone()
            gradient[list(replicas)] = torch.nan
            return gradient

        return lambda trainer: trainer.network.readout.weight.register_hook(hook)

    def interfere(trainer):
        at(2, spoil(0, 2))(trainer)
        at(7, spoil(1))(trainer)

    records, trainer = train(make(steps=30), interfere)
    assert [record.step for record in records] == [0, 5, 10]
    assert records[1].diverged_at.tolist() == [2, -1, 2]
    assert records[2].diverged_at.tolist() == [2, 7, 2]
    assert trainer.steps == 11


def test_too_large_a_learning_rate_diverges_by_itself():
    records, _ = train(make(activation="identity", optimizer={"name": "sgd", "lr": 1e6}, steps=40))
    assert (records[-1].diverged_at >= 1).all()
    assert records[-1].step < 40


def test_finite_gradients_whose_sum_overflows_are_not_taken_for_a_divergence():
    trainer = Trainer(make(), load(make()), CPU)
    for run in trainer.parameters.runs:
        run.gradients.fill_(3e38)
    watch = Watch(trainer.parameters, trainer.instrument, 3, CPU)
    assert watch.look(torch.zeros(3)) is None
    trainer.parameters.runs[1].gradients[1, 2, 5] = torch.inf
    alive = watch.look(torch.zeros(3))
    assert alive is not None
    assert alive.tolist() == [True, True, False]
    assert watch.state()["diverged_layer"].tolist() == [-1, -1, 2]


# --- what a step costs ----------------------------------------------------------------------------------------------


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
        trainer.step(is_reading=True)
        with HostReads(monkeypatch) as reads:
            for _ in range(3):
                trainer.step(is_reading=False)
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
    monkeypatch.setattr(network, "_torch_generator", lambda stream, device: None)
    fetched = []

    def fetch(step, loss, measured, watch, *rest):
        fetched.append({"loss": loss, **measured, **watch.state()})

    monkeypatch.setattr(training, "fetch", fetch)
    config, meta = make(probe={"set": which}, **choices), torch.device("meta")
    here = load(config)
    there = data.Dataset(*(tensor.to(meta) for tensor in (here.train_x, here.train_y, here.test_x, here.test_y)), 3)
    trainer = Trainer(config, there, meta)
    trainer.step(is_reading=True)  # draws the batches of many steps, too
    with HostTensors() as operations:
        for step in range(6):
            trainer.step(is_reading=step % 3 == 0, is_evaluated=step == 0)
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
    trainer.step(is_reading=True, is_evaluated=True)
    with torch.device("meta"):
        assert torch.ones(1).is_meta
        trainer.step(is_reading=False)
        assert trainer.step(is_reading=True, is_evaluated=True) is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
@every_network
def test_a_step_on_a_gpu_waits_for_nothing_and_a_reading_once(choices, monkeypatch):
    device = torch.device("cuda")
    config = make(**choices)
    trainer = Trainer(config, data.load(config.data, torch.float32, device), device)
    trainer.step(is_reading=True, is_evaluated=True)  # libraries are loaded, working memory is allocated
    waits: list[None] = []

    def fetch(*args, original=training.fetch):
        torch.cuda.set_sync_debug_mode("default")
        waits.append(None)
        try:
            return original(*args)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(training, "fetch", fetch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(6):
            trainer.step(is_reading=step % 3 == 0, is_evaluated=step == 0)
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
    there = list(training.train(config, data.load(config.data, torch.float64, device), device))
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
    for record in training.train(config, load(config), CPU):
        if record.step in (2000, 10_000):
            tensors.append(alive_tensors())
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert tensors[0] == tensors[1]
    assert peaks[1] - peaks[0] < 4096  # KiB: 8000 steps that kept a kilobyte each would take 8


def test_a_run_that_is_left_early_leaves_nothing_behind():
    before = alive_tensors()
    records = training.train(make(), load(make()), CPU)
    next(records)
    assert alive_tensors() > before
    del records
    assert alive_tensors() == before


def test_a_packed_network_shares_its_memory_with_the_optimizer():
    trainer = Trainer(make(), load(make()), CPU)
    assert isinstance(trainer.parameters, Parameters)
    before = blocks(trainer.network)[2].up.weight.clone()
    trainer.step(is_reading=False)
    assert not torch.equal(blocks(trainer.network)[2].up.weight, before)
