"""Replicated optimizers against torch.optim, and what happens to a replica that is no longer alive."""

import copy
import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lab import schema
from lab.train.update import optimizers

STEPS = 20
SHAPES = [(3, 4, 37), (1, 4, 5), (2, 4, 64)]  # (layers, R, P)
CONFIGS = [
    *(schema.SGD("sgd", 0.05, decay) for decay in (0.0, 0.1)),
    *(
        schema.SGD("sgd", 0.05, decay, momentum=0.9, nesterov=nesterov)
        for decay, nesterov in itertools.product((0.0, 0.1), (False, True))
    ),
    *(
        schema.Adam("adam", 0.02, decay, beta1=b1, eps=eps)
        for decay in (0.0, 0.1)
        for b1, eps in [(0.9, 1e-8), (0.0, 1e-3)]
    ),
    *(schema.AdamW("adamw", 0.02, decay, beta2=0.95) for decay in (0.0, 0.1)),
    *(
        schema.RMSprop("rmsprop", 0.02, decay, alpha=0.9, eps=1e-6, momentum=momentum)
        for decay, momentum in itertools.product((0.0, 0.1), (0.0, 0.8))
    ),
]


def name(config):
    options = "-".join(f"{key}={value}" for key, value in vars(config).items() if key not in ("name", "lr"))
    return f"{config.name}-{options}"


every_optimizer = pytest.mark.parametrize("config", CONFIGS, ids=name)


def torch_optimizer(config, parameters, lr):
    """torch's own, in its plain form: one tensor after the other."""
    common = {"lr": lr, "weight_decay": config.weight_decay, "foreach": False}
    match config.name:
        case "sgd":
            return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, **common)
        case "adam":
            return torch.optim.Adam(parameters, betas=(config.beta1, config.beta2), eps=config.eps, **common)
        case "adamw":
            return torch.optim.AdamW(parameters, betas=(config.beta1, config.beta2), eps=config.eps, **common)
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters, alpha=config.alpha, eps=config.eps, momentum=config.momentum, **common
            )
    raise AssertionError(config.name)


def draw(shapes=SHAPES, dtype=torch.float64, seed=0):
    """Parameters, and gradients for every step whose entries span many orders of magnitude, as vanishing ones do."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    gradients = [
        [
            torch.randn(shape, generator=generator, dtype=dtype)
            * 10.0 ** torch.randint(-9, 2, shape, generator=generator).to(dtype)
            for shape in shapes
        ]
        for _ in range(STEPS)
    ]
    return parameters, gradients


def bits(tensors):
    return [
        tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int64) for tensor in tensors
    ]


def are_same_bits(first, second):
    return all(torch.equal(a, b) for a, b in zip(bits(first), bits(second), strict=True))


@every_optimizer
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_every_rule_is_torchs(config, dtype, tolerance):
    parameters, gradients = draw(dtype=dtype)
    theirs = [torch.nn.Parameter(parameter.clone()) for parameter in parameters]
    optimizer, reference = optimizers.build(config, parameters), torch_optimizer(config, theirs, config.lr)
    for step in gradients:
        optimizer.step(step)
        for parameter, gradient in zip(theirs, step, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
        for mine, their in zip(parameters, theirs, strict=True):
            torch.testing.assert_close(mine, their.detach(), rtol=tolerance, atol=tolerance)


@every_optimizer
def test_the_state_has_torchs_names_and_values(config):
    parameters, gradients = draw()
    theirs = [torch.nn.Parameter(parameter.clone()) for parameter in parameters]
    optimizer, reference = optimizers.build(config, parameters), torch_optimizer(config, theirs, config.lr)
    for step in gradients:
        optimizer.step(step)
        for parameter, gradient in zip(theirs, step, strict=True):
            parameter.grad = gradient.clone()
        reference.step()
    expected = {key for key, value in reference.state[theirs[0]].items() if key != "step" and value is not None}
    assert set(optimizer.state) == expected
    assert optimizer.steps == STEPS
    for key, tensors in optimizer.state.items():
        for mine, parameter in zip(tensors, theirs, strict=True):
            torch.testing.assert_close(mine, reference.state[parameter][key], rtol=1e-13, atol=1e-14)


@every_optimizer
def test_a_learning_rate_per_replica_is_each_replica_trained_with_its_own(config):
    rates = torch.tensor([0.3, 0.0, 1e-3, 0.02], dtype=torch.float64)
    parameters, gradients = draw()
    alone = [[parameter[:, r].clone().requires_grad_() for parameter in parameters] for r in range(len(rates))]
    optimizer = optimizers.build(config, parameters, rates)
    references = [torch_optimizer(config, alone[r], rate.item()) for r, rate in enumerate(rates)]
    for step in gradients:
        optimizer.step(step)
        for r, reference in enumerate(references):
            for parameter, gradient in zip(alone[r], step, strict=True):
                parameter.grad = gradient[:, r].clone()
            reference.step()
    for r in range(len(rates)):
        for mine, their in zip(parameters, alone[r], strict=True):
            torch.testing.assert_close(mine[:, r], their.detach(), rtol=1e-12, atol=1e-13)


def test_one_learning_rate_too_few_is_refused():
    parameters, _ = draw()
    with pytest.raises(ValueError, match="each of 4 replicas"):
        optimizers.build(schema.SGD(), parameters, torch.ones(3))


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("has_own_rates", [False, True], ids=["one rate", "own rates"])
def test_a_diverged_replica_stays_and_does_not_touch_its_neighbours(config, dtype, has_own_rates):
    dead, died_at = 2, 5
    parameters, gradients = draw(dtype=dtype)
    parameters[0][0, dead, 0] = parameters[1][0, dead, 1] = -0.0
    unharmed = copy.deepcopy(parameters)
    rates = torch.tensor([0.01, 0.02, 0.03, 0.04]) if has_own_rates else None
    optimizer, reference = (optimizers.build(config, p, rates) for p in (parameters, unharmed))
    alive = torch.ones(4, dtype=torch.bool)
    for index, step in enumerate(gradients):
        reference.step(step)
        if index < died_at:
            optimizer.step(step)
            frozen = [parameter[:, dead].clone() for parameter in parameters]
            continue
        alive[dead] = False
        poisoned = [gradient.clone() for gradient in step]
        for gradient, poison in zip(poisoned, (torch.nan, torch.inf, -torch.inf), strict=True):
            gradient[:, dead] = poison
        optimizer.step(poisoned, alive)
        assert are_same_bits([parameter[:, dead] for parameter in parameters], frozen)
        assert all(tensor.isfinite().all() for tensors in optimizer.state.values() for tensor in tensors)
    others = alive.nonzero().flatten()
    assert are_same_bits([p[:, others] for p in parameters], [p[:, others] for p in unharmed])
    for key, tensors in optimizer.state.items():
        assert are_same_bits([t[:, others] for t in tensors], [t[:, others] for t in reference.state[key]])


@pytest.mark.parametrize(
    "config",
    [
        schema.Adam("adam", beta2=0.0),
        schema.Adam("adam", eps=1e-60),
        schema.AdamW("adamw", weight_decay=0.5),
        schema.RMSprop("rmsprop", alpha=0.0, eps=1e-60),
        schema.RMSprop("rmsprop", alpha=0.0, momentum=0.5),
        schema.SGD("sgd", momentum=0.9, weight_decay=0.5, nesterov=True),
    ],
    ids=name,
)
def test_a_replica_whose_state_overflowed_before_it_died_stays_as_it_was(config):
    # 1e30 squared is Inf in float32, and 0 times Inf is NaN: it must not get out of the state into the parameters.
    parameters = [torch.full((1, 2, 3), 2.0)]
    optimizer = optimizers.build(config, parameters)
    optimizer.step([torch.full((1, 2, 3), 1e30)])
    parameters[0][:, 1] = torch.inf
    before = parameters[0][:, 1].clone()
    for _ in range(3):
        optimizer.step([torch.full((1, 2, 3), torch.nan)], torch.tensor([True, False]))
    assert are_same_bits([parameters[0][:, 1]], [before])
    assert all(tensor[:, 1].isfinite().all() for tensors in optimizer.state.values() for tensor in tensors)


@every_optimizer
@pytest.mark.parametrize("alive", [None, [True, False, True, True]], ids=["all alive", "one dead"])
def test_the_memory_layout_does_not_matter(config, alive):
    parameters, gradients = draw()
    strided = [torch.zeros(*p.shape[:2], p.shape[2] + 3).double()[..., 1:-2].copy_(p) for p in parameters]
    turned = [p.transpose(0, 2).contiguous().transpose(0, 2) for p in parameters]
    assert not any(p.is_contiguous() for p in [*strided, *turned[:1]])
    mask = None if alive is None else torch.tensor(alive)
    for layout in (parameters, strided, turned):
        optimizer = optimizers.build(config, layout)
        for step in gradients:
            optimizer.step([g.transpose(0, 2).contiguous().transpose(0, 2) for g in step], mask)
    for other in (strided, turned):
        torch.testing.assert_close(other, parameters, rtol=1e-13, atol=1e-14)


@every_optimizer
@pytest.mark.parametrize("alive", [None, [True, False, True, True]], ids=["all alive", "one dead"])
def test_the_callers_gradients_and_mask_stay_as_they_are(config, alive):
    parameters, gradients = draw()
    mask = None if alive is None else torch.tensor(alive)
    optimizer, kept = optimizers.build(config, parameters), copy.deepcopy(gradients)
    for step, copied in zip(gradients, kept, strict=True):
        optimizer.step(step, mask)
        assert are_same_bits(step, copied)
    assert mask is None or mask.tolist() == alive


def test_parameters_that_require_gradients_are_updated_in_place_without_a_graph():
    parameter = torch.ones(1, 2, 3, requires_grad=True)
    optimizers.build(schema.SGD(lr=0.5), [parameter]).step([torch.ones(1, 2, 3)])
    assert parameter.is_leaf
    assert torch.equal(parameter.detach(), torch.full((1, 2, 3), 0.5))


@every_optimizer
@pytest.mark.parametrize("has_own_rates", [False, True], ids=["one rate", "own rates"])
def test_no_step_looks_at_a_number(config, has_own_rates):
    # A tensor on the meta device has no numbers: any .item(), bool() or nonzero() raises.
    parameters = [torch.empty(shape, device="meta") for shape in SHAPES]
    rates = torch.empty(4, device="meta") if has_own_rates else None
    optimizer = optimizers.build(config, parameters, rates)
    for alive in (None, torch.empty(4, dtype=torch.bool, device="meta")):
        optimizer.step([torch.empty_like(parameter) for parameter in parameters], alive)


class Operations(TorchDispatchMode):
    """Writes down what torch is asked to do, and keeps the results, so that no two of them share memory by chance."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen.append((func.name(), result))
        return result


def test_plain_sgd_is_one_pass_over_memory():
    parameters, gradients = draw()
    optimizer = optimizers.build(schema.SGD(), parameters)
    with Operations() as operations:
        optimizer.step(gradients[0])
    assert [operation for operation, _ in operations.seen] == ["aten::add_.Tensor"] * len(SHAPES)


@every_optimizer
def test_working_memory_is_allocated_once(config):
    parameters, gradients = draw()
    optimizer = optimizers.build(config, parameters)
    alive = torch.tensor([True, False, True, True])
    with Operations() as first:
        optimizer.step(gradients[0], alive)
    known = {tensor.untyped_storage().data_ptr() for tensor in [*gradients[1], *(result for _, result in first.seen)]}
    with Operations() as later:
        optimizer.step(gradients[1])
        optimizer.step(gradients[1], alive)
    new = [(operation, result) for operation, result in later.seen if result.untyped_storage().data_ptr() not in known]
    assert [operation for operation, result in new if result.numel() > len(alive)] == []
