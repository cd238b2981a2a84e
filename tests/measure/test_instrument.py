"""Every quantity of a reading against a plain autograd computation, step after step of a whole training.

The other side is one replica's network of torch.nn modules, trained by torch.optim, its gradients kept by retain_grad
and measured with NumPy in float64. Nothing of the lab's is used there but the first weights and the order of batches.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lab import data, schema
from lab.data import Batches
from lab.measure import instrument
from lab.network.seeding import streams
from lab.readings import JACOBIAN_MOMENTS, LAYER_QUANTITIES, NORMS, SCALAR_QUANTITIES
from lab.train import loop
from lab.train import trainer as trainer_module
from tests.plain_torch import CPU, TorchNetwork, blocks, build, configure

REPLICAS, STEPS, BATCH = 2, 3, 8
DATA = {"name": "gaussian", "examples": 60, "features": 4, "classes": 3}
PROBE = {"every": 1, "eval_every": 1, "examples": 5}

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "saturating": {"activation": "sigmoid", "init": {"name": "gaussian", "weight_var": 60.0, "bias_var": 1.0}},
    "leaky": {"activation": {"name": "leaky_relu", "negative_slope": 0.002}, "init": "torch_default"},
    "dying": {"init": {"name": "gaussian", "weight_var": 1.0, "bias_var": 4.0}, "model": {"depth": 4, "width": 6}},
    "without biases": {"activation": "tanh", "model": {"depth": 3, "width": 6, "bias": False}},
    "learnt slope": {"activation": {"name": "prelu", "negative_slope": 0.0095}, "norm": "batch"},
    "learnt beta": {"activation": {"name": "swish", "beta": 4.0, "learnable": True}, "init": "torch_default"},
    "gated": {"activation": "swiglu", "norm": {"name": "layer", "place": "post"}},
    "residual": {"residual": {"name": "rezero", "alpha": 0.3}, "norm": {"name": "rms", "place": "pre"}},
    "scaled residual": {"activation": "erf", "residual": {"name": "scaled", "alpha": 0.4}},
    "feed-forward": {
        "activation": "gelu",
        "residual": "identity",
        "norm": {"name": "layer", "place": "pre"},
        "model": {"depth": 3, "width": 6, "block": "ffn"},
    },
    "gated feed-forward": {
        "activation": "reglu",
        "residual": "identity",
        "norm": {"name": "batch", "place": "pre"},
        "model": {"depth": 3, "width": 6, "block": "ffn"},
    },
    "linear": {"activation": "identity", "init": "torch_default"},
    "inner norm": {"activation": "elu", "norm": {"name": "rms", "place": "inner", "affine": False}},
}
STEPPING: list[dict[str, Any]] = [
    {"optimizer": {"name": "sgd", "lr": 0.1}},
    {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}, "clip": {"name": "norm", "max_norm": 0.3}},
    {"optimizer": {"name": "adam", "lr": 0.02}, "clip": {"name": "value", "max_value": 0.01}},
]


def make(**choices):
    standard = {
        "replicas": REPLICAS,
        "first_replica": 3,
        "steps": STEPS,
        "batch_size": BATCH,
        "dtype": "float64",
        "data": DATA,
        "probe": PROBE,
        "model": {"depth": 3, "width": 6},
    }
    return configure(**{**standard, **choices})


def load(config):
    return data.load(config.data, getattr(torch, config.dtype), CPU)


def read(config):
    return list(loop.train(config, load(config), CPU))


def rms(values):
    return math.sqrt(np.mean(np.square(values.detach().numpy(), dtype=np.float64)))


def norm(tensors):
    return math.sqrt(sum(float(np.sum(np.square(tensor.detach().numpy(), dtype=np.float64))) for tensor in tensors))


class PlainRun:
    """One replica of a configuration, trained and measured by torch and NumPy alone."""

    def __init__(self, config, replica):
        self.config = config
        self.dataset = load(config)
        network = build(config, self.dataset.features, self.dataset.classes)
        self.network = TorchNetwork(config, self.dataset.features, self.dataset.classes).copy(network, replica)
        seeds = streams(config.seed, config.first_replica + replica)
        self.batches = Batches(self.dataset, config.batch_size, [seeds.batches])
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer
        match config.optimizer:
            case schema.SGD(lr=lr, momentum=momentum):
                self.optimizer = torch.optim.SGD(trained, lr, momentum)
            case schema.Adam(lr=lr):
                self.optimizer = torch.optim.Adam(trained, lr)
        self.trained = trained

    def step(self, has_update):
        """Quantity -> one number a layer, or one number."""
        x, y = (tensor[0] for tensor in self.batches.next())
        self.optimizer.zero_grad()
        logits = self.network(x.requires_grad_())
        for block in self.network.blocks:
            for tensor in (block.x, block.z, block.y):
                tensor.retain_grad()
        loss = F.cross_entropy(logits, y)
        loss.backward()
        parts = [list(zip(*self.of_block(block), strict=True)) for block in self.network.blocks]
        found: dict[str, Any] = {name: [] for name in LAYER_QUANTITIES}
        for block, (names, parameters) in zip(self.network.blocks, parts, strict=True):
            z, a = block.z.detach().numpy(), block.a.detach().numpy()
            weights = [p for name, p in zip(names, parameters, strict=True) if self.is_of_map(name, "weight")]
            biases = [p for name, p in zip(names, parameters, strict=True) if self.is_of_map(name, "bias")]
            found["pre_rms"].append(rms(block.z))
            found["pre_mean"].append(z.mean())
            found["act_rms"].append(rms(block.a))
            found["act_mean"].append(a.mean())
            found["zero_fraction"].append((a == 0).mean())
            found["saturated_fraction"].append(self.saturated(block))
            found["delta_rms"].append(rms(self.config.batch_size * block.z.grad))
            found["weight_grad_norm"].append(norm(p.grad for p in weights))
            found["bias_grad_norm"].append(norm(p.grad for p in biases) if biases else math.nan)
            found["weight_norm"].append(norm(weights))
            found["layer_gain"].append(rms(block.x.grad) / rms(block.y.grad))
            found["nonfinite"].append(sum((~p.grad.isfinite()).sum().item() for p in parameters))
        found["dead_fraction"] = self.dead()
        found |= {
            "loss": loss.item(),
            "grad_norm": norm(p.grad for p in self.trained),
            "readout_weight_grad_norm": norm([self.network.readout.weight.grad]),
            "readout_weight_norm": norm([self.network.readout.weight]),
        }
        found["eval_loss"], found["eval_accuracy"] = self.evaluate()
        found["delta_slope"] = np.polyfit(range(self.config.model.depth), np.log10(found["delta_rms"]), 1)[0]
        self.clip(found["grad_norm"])
        found["clipped_grad_norm"] = norm(p.grad for p in self.trained)
        before = [[p.detach().clone() for p in parameters] for _, parameters in parts]
        if has_update:
            self.optimizer.step()
        for (_, parameters), old in zip(parts, before, strict=True):
            change = norm(p - q for p, q in zip(parameters, old, strict=True)) / norm(old)
            found["update_ratio"].append(change if has_update else math.nan)
        return found

    @staticmethod
    def of_block(block):
        return [(name, p) for name, p in block.named_parameters() if p.requires_grad]

    @staticmethod
    def is_of_map(name, kind):
        return name.split(".")[0] in ("maps", "down") and name.endswith(kind)

    def clip(self, total):
        for parameter in self.trained:
            assert parameter.grad is not None
            match self.config.clip:
                case schema.ClipNorm(max_norm=limit):
                    parameter.grad *= min(1.0, limit / total)
                case schema.ClipValue(max_value=limit):
                    parameter.grad.clamp_(-limit, limit)

    def saturated(self, block):
        def slope(z):
            z = z.detach().clone().requires_grad_()
            if len(block.maps) == 1:
                (found,) = torch.autograd.grad(block.activate(z).sum(), z)
                return found.abs()
            gate = z.chunk(2, -1)[1]
            value = torch.ones_like(gate)
            (found,) = torch.autograd.grad(block.activate(torch.cat([value, gate], -1)).sum(), gate)
            return found.abs()

        if block.slopes is not None:  # rrelu: all slopes drawn are below 1 here
            largest = torch.tensor(1.0)
        else:
            grid = torch.linspace(-20, 20, 80001, dtype=torch.float64)[:, None]
            largest = slope(grid if len(block.maps) == 1 else grid.expand(-1, 2)).max()
        return (slope(block.z) < 0.01 * largest).double().mean().item()

    @torch.no_grad()
    def dead(self):
        depth = self.config.model.depth
        if self.config.activation.name not in ("relu", "reglu", "relu6"):
            return [math.nan] * depth
        norms = [module for module in self.network.modules() if isinstance(module, torch.nn.BatchNorm1d)]
        momentum = self.config.norm.momentum if norms else None
        for module in norms:
            module.momentum = 0.0  # the look at the probe set is not remembered
        self.network(self.dataset.train_x[: self.config.probe.examples])
        for module in norms:
            module.momentum = momentum
        return [(block.a == 0).all(0).double().mean().item() for block in self.network.blocks]

    @torch.no_grad()
    def evaluate(self):
        self.network.eval()
        logits = self.network(self.dataset.test_x)
        self.network.train()
        loss = F.cross_entropy(logits, self.dataset.test_y).item()
        return loss, (logits.argmax(1) == self.dataset.test_y).double().mean().item()


def assert_readings_are_plain_autograds(config, rtol=1e-8):
    records = read(config)
    assert [record.step for record in records] == list(range(config.steps + 1))
    for replica in range(config.replicas):
        plain = PlainRun(config, replica)
        for record in records:
            expected = plain.step(has_update=record.step < config.steps)
            assert set(record.layers) == set(LAYER_QUANTITIES)
            assert set(record.scalars) == set(SCALAR_QUANTITIES) - set(JACOBIAN_MOMENTS)
            for name, values in record.layers.items():
                assert values.dtype == np.float64
                np.testing.assert_allclose(values[:, replica], expected[name], rtol, 1e-12, err_msg=name)
            for name, values in record.scalars.items():
                assert values.dtype == np.float64
                np.testing.assert_allclose(values[replica], expected[name], rtol, 1e-12, err_msg=name)
            assert record.diverged_at[replica] == record.diverged_layer[replica] == -1


@pytest.mark.parametrize("stepping", STEPPING, ids=["sgd", "momentum and clip=norm", "adam and clip=value"])
@pytest.mark.parametrize("choices", NETWORKS.values(), ids=list(NETWORKS))
def test_every_quantity_is_that_of_plain_autograd(choices, stepping):
    assert_readings_are_plain_autograds(make(**choices, **stepping))


def test_random_slopes_are_measured_as_they_were_drawn():
    config = make(activation={"name": "rrelu", "lower": 0.001, "upper": 0.02}, model={"depth": 3, "width": 30})
    trainer = trainer_module.Trainer(config, load(config), CPU)
    record = trainer.step(trainer_module.Due(reading=True, update=False))
    assert record is not None
    for replica in range(REPLICAS):
        plain = PlainRun(config, replica)
        plain.network.take_slopes(trainer.network, replica)
        expected = plain.step(has_update=False)
        for name in ("act_rms", "act_mean", "delta_rms", "layer_gain", "weight_grad_norm", "saturated_fraction"):
            np.testing.assert_allclose(record.layers[name][:, replica], expected[name], 1e-9, err_msg=name)
        # Half of the pre-activations are negative, and about half of their slopes are below 1%.
        assert 0.1 < np.mean(expected["saturated_fraction"]) < 0.4


@pytest.mark.parametrize("name", ["plain", "gated", "feed-forward"])
def test_in_single_precision_too(name):
    assert_readings_are_plain_autograds(make(**NETWORKS[name], dtype="float32"), rtol=2e-4)


def test_the_networks_above_show_what_the_quantities_are_for():
    """Values that are 0 everywhere would agree with anything."""
    seen = {name: read(make(**NETWORKS[name], steps=0))[0].layers for name in ("saturating", "leaky", "dying", "plain")}
    for name in ("saturating", "leaky"):
        assert (seen[name]["saturated_fraction"] > 0.1).all()
        assert (seen[name]["saturated_fraction"] < 1).all()
    assert 0 < seen["dying"]["dead_fraction"].mean() < 1
    assert (seen["plain"]["zero_fraction"] > seen["plain"]["dead_fraction"]).any()


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("group_bytes", [1, 1000])
def test_how_many_layers_are_measured_at_once_does_not_matter(name, group_bytes, monkeypatch):
    config = make(**NETWORKS[name])
    expected = read(config)
    monkeypatch.setattr(instrument, "GROUP_BYTES", group_bytes)
    for mine, theirs in zip(read(config), expected, strict=True):
        for quantity, values in (mine.layers | mine.scalars).items():
            np.testing.assert_allclose(values, (theirs.layers | theirs.scalars)[quantity], 1e-12, 1e-14)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_small_set_has_the_same_values(name):
    full, small = (read(make(**NETWORKS[name], probe={**PROBE, "set": which})) for which in ("full", "norms"))
    for mine, theirs in zip(small, full, strict=True):
        assert tuple(mine.layers) == NORMS
        for quantity, values in (mine.layers | mine.scalars).items():
            np.testing.assert_array_equal(values, (theirs.layers | theirs.scalars)[quantity])


# --- the ends of the number range -----------------------------------------------------------------------------------


def read_with_readout_times(factor, dtype="float32", **choices):
    """The first reading of a network whose readout weights are multiplied first: gradients below go with them."""
    config = make(dtype=dtype, **choices)
    trainer = trainer_module.Trainer(config, load(config), CPU)
    with torch.no_grad():
        trainer.network.readout.weight.mul_(factor)
    record = trainer.step(trainer_module.Due(reading=True))
    assert record is not None
    return record


SCALING = ("delta_rms", "weight_grad_norm", "bias_grad_norm")


def test_float32_gradients_of_1e_minus_25_are_reported_as_such():
    tiny, small = read_with_readout_times(1e-25), read_with_readout_times(1e-8)
    for name in SCALING:
        # Logits this small leave the softmax at 1/3 each, so gradients are proportional to the readout.
        assert (tiny.layers[name] < 1e-23).all()
        np.testing.assert_allclose(tiny.layers[name] / 1e-17, small.layers[name], rtol=1e-5)
    np.testing.assert_allclose(tiny.layers["layer_gain"], small.layers["layer_gain"], rtol=1e-5)
    np.testing.assert_allclose(tiny.scalars["delta_slope"], small.scalars["delta_slope"], atol=1e-5)
    assert torch.linalg.vector_norm(torch.full((100,), 1e-25)) == 0  # a plain float32 norm would say so


def test_float32_gradients_of_1e25_are_finite():
    huge, exact = (read_with_readout_times(1e25, dtype) for dtype in ("float32", "float64"))
    for name in SCALING:
        assert (huge.layers[name] > 1e23).all()
        np.testing.assert_allclose(huge.layers[name], exact.layers[name], rtol=1e-3)
    np.testing.assert_allclose(huge.scalars["grad_norm"], exact.scalars["grad_norm"], rtol=1e-3)
    assert not huge.layers["nonfinite"].any()
    assert (huge.diverged_at == -1).all()


@pytest.mark.parametrize("factor", [1e-200, 1e200])
def test_float64_gradients_far_outside_the_range_of_their_squares_are_measured(factor):
    far, near = read_with_readout_times(factor, "float64"), read_with_readout_times(factor**0.25, "float64")
    for name in SCALING:
        # Above, each example has one class at probability 1; below, all are equally likely: proportional at both ends.
        np.testing.assert_allclose(far.layers[name] / factor**0.75, near.layers[name], rtol=1e-6)


def test_a_vanished_gradient_is_0_and_its_slope_is_left_out():
    record = read_with_readout_times(0.0)
    assert not record.layers["delta_rms"].any()
    assert np.isnan(record.scalars["delta_slope"]).all()
    assert np.isnan(record.layers["layer_gain"]).all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_every_entry_that_is_not_finite_is_counted_where_it_is(poison):
    config = make()
    trainer = trainer_module.Trainer(config, load(config), CPU)

    def spoil(gradient):
        gradient = gradient.clone()
        gradient[1, :2, 3] = poison
        return gradient

    blocks(trainer.network)[1].up.weight.register_hook(spoil)
    blocks(trainer.network)[2].up.bias.register_hook(lambda gradient: gradient * poison)
    record = trainer.step(trainer_module.Due(reading=True))
    assert record is not None
    expected = np.zeros((3, REPLICAS))
    expected[1, 1], expected[2] = 2, 6
    np.testing.assert_array_equal(record.layers["nonfinite"], expected)
    assert not np.isfinite(record.layers["weight_grad_norm"][1, 1])
    assert np.isfinite(record.layers["weight_grad_norm"][2]).all()
    assert np.isfinite(record.layers["weight_grad_norm"][1, 0])


# --- nothing is left behind -----------------------------------------------------------------------------------------

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def hooks_left(trainer):
    modules = [(module, name) for module in trainer.network.modules() for name in HOOKS if getattr(module, name)]
    dataset = trainer.dataset
    held = [*trainer.parameters.tensors, *trainer.network.buffers(), dataset.train_x, dataset.test_x]
    tensors = [tensor for tensor in held if tensor._backward_hooks or tensor._post_accumulate_grad_hooks]
    return modules + tensors


@pytest.mark.parametrize("name", list(NETWORKS))
def test_no_hook_is_left_after_a_step(name):
    config = make(**NETWORKS[name])
    trainer = trainer_module.Trainer(config, load(config), CPU)
    seen: list[int] = []
    blocks(trainer.network)[0].up.register_forward_hook(
        lambda *_: seen.append(len(blocks(trainer.network)[0].activation._forward_hooks))
    )
    trainer.step(trainer_module.Due(reading=True, evaluation=True))
    trainer.step()
    assert max(seen) > 0  # there were some while it was watched
    blocks(trainer.network)[0].up._forward_hooks.clear()
    assert hooks_left(trainer) == []
    assert not trainer.dataset.train_x.requires_grad


def test_no_hook_is_left_after_an_error(monkeypatch):
    config = make()
    trainer = trainer_module.Trainer(config, load(config), CPU)

    def fail(logits, y):
        raise RuntimeError("within the step")

    monkeypatch.setattr(trainer_module, "cross_entropy", fail)
    with pytest.raises(RuntimeError, match="within the step"):
        trainer.step(trainer_module.Due(reading=True))
    assert hooks_left(trainer) == []


def test_a_users_own_hooks_stay():
    config = make()
    trainer = trainer_module.Trainer(config, load(config), CPU)
    seen: list[None] = []
    blocks(trainer.network)[1].activation.register_forward_hook(lambda *_: seen.append(None))
    for _ in range(3):
        trainer.step(trainer_module.Due(reading=True))
    assert len(seen) >= 3
