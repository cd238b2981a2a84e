"""Prediction of the memory that a run needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lab import schema
from lab.data import npz
from lab.schema import Config, ConfigError

if TYPE_CHECKING:
    import torch
from lab.machine.memory import available, available_on
from lab.machine.terminal import file_size

REMEDIES = {
    "probe.every": "raise probe.every",
    "probe.jacobian": "leave probe.jacobian out",
    "data.path": "take fewer examples or features",
}
"""What to do about a key that is not to be lowered."""


ITEM = {"float32": 4, "float64": 8}


DOUBLE = 8
"""Bytes of a number."""


LIBRARIES = 200 * 2**20
"""Bytes that are not there yet before a run: TensorBoard, xarray, matplotlib and pandas."""


LAYER_OBJECTS, REPLICA_OBJECTS, RECORD_OBJECTS = 15_000, 6_000, 10_000
"""Bytes of Python's and torch's objects for a layer (modules, hooks, graph), a replica (generators) and a reading."""


MOMENT, VMAP_MOMENT = 6, 12
"""Tensors as large as the largest activation that come and go within a layer's forward or backward pass; in the passes
that autograd does for many rows of a Jacobian at once."""


SCATTER, SCATTER_TWICE, MAPPED = 1.6, 2.5, 32 * 2**20
"""Memory on the host that tensors below `MAPPED` bytes take over what is in them: C's allocator keeps what they leave
behind, and often finds no room for the next ones in it. Measured: 1.0 to 1.8, and 2.8 with a second backward pass.
Larger tensors get pages of their own, which go back at once (glibc's M_MMAP_THRESHOLD)."""


EVAL_ROWS, JACOBIAN_ROWS, LARGEST_EXACT, BLOCK_INDICES = 2048, 128, 512, 2**18
"""As in lab.train.trainer, lab.measure.jacobian and lab.data; a test holds them together."""


STATES = {"sgd": 0, "adam": 2, "adamw": 2, "rmsprop": 1}
"""Tensors of optimizer state; momentum adds one."""


READS_INPUT = frozenset(
    {"leaky_relu", "prelu", "rrelu", "elu", "selu", "gelu", "gelu_tanh", "swish", "silu", "softplus", "erf"}
)
"""Activations whose backward pass needs the pre-activation; the others' (relu, sigmoid, tanh) needs only the output."""


FEW_READINGS = 100
"""So few need not be fewer."""


OPENML_COPIES = 4
"""How many times the 70,000 images are in memory as float64 while OpenML's file is parsed."""


class Part(NamedTuple):
    """Some of a run's memory: bytes on the host and on the device, what for, and the keys that it grows with."""

    host: int
    device: int
    what: str
    keys: tuple[str, ...]

    def bytes(self, is_on_device: bool) -> int:
        return self.device if is_on_device else self.host


def refuse_too_large(config: Config, device: torch.device) -> None:
    """Refuse a configuration that will not fit, before anything is built.

    Args:
        config: one network; of a batched sweep, the whole batch's, with the replicas of all its runs.
        device: where it will compute.

    Raises:
        ConfigError: it needs more memory than is free; the sentence has both figures and the keys to lower.
    """
    parts = predict(config, is_on_gpu=device.type != "cpu")
    _compare(config, parts, available(), "memory", is_on_device=False)
    if device.type == "cuda":
        _compare(config, parts, available_on(device), "the GPU's memory", is_on_device=True)


def _compare(config: Config, parts: Sequence[Part], free: int, where: str, is_on_device: bool) -> None:
    needed = sum(part.bytes(is_on_device) for part in parts)
    if needed <= free:
        return
    largest = max(parts, key=lambda part: part.bytes(is_on_device))
    key, *others = largest.keys
    remedy = REMEDIES.get(key, f"lower {key}") + (f", or lower {' or '.join(others)}" if others else "")
    raise ConfigError(
        f"{key}={_value(config, key)}: this run would take {file_size(needed)} of {where},"
        f" {file_size(largest.bytes(is_on_device))} of it for {largest.what}, and {file_size(free)} are free; {remedy}."
    )


def predict(config: Config, is_on_gpu: bool = False) -> list[Part]:
    """The parts of a run's memory at its peak, over and above what a process takes that has imported torch.

    A file of the user's that cannot be read counts as empty: it is refused when it is.
    """
    size = _Size(config, is_on_gpu)
    at_work = [size.parameters(), size.activations(), size.data(), size.readings()]
    if config.probe.jacobian:
        at_work.append(size.jacobians())
    at_work.append(size.objects())
    if not is_on_gpu:
        return [part._replace(host=part.host + part.device, device=0) for part in at_work]
    return at_work


class _Size:
    """The numbers that shapes are made of."""

    def __init__(self, config: Config, is_on_gpu: bool) -> None:
        from lab.network.network import hidden_units

        self.config, self.is_on_host = config, not is_on_gpu
        self.item = ITEM[config.dtype]
        self.train, self.test, self.features, self.classes = _extent(config.data)
        self.replicas, self.batch = config.replicas, config.batch_size
        self.depth, self.width = config.model.depth, config.model.width
        self.is_ffn = config.model.block == "ffn"
        self.hidden = hidden_units(config) if self.is_ffn else self.width
        self.maps = 2 if config.activation.name in schema.GATED else 1
        self.has_embedding = self.is_ffn or config.residual.name != "none"
        self.place = getattr(config.norm, "place", "") if config.norm.name != "none" else ""
        self.is_full = config.probe.set == "full"

    def parameters(self) -> Part:
        """Values, gradients and what else is as large, on the device; drawn in float64 on the host."""
        config, each = self.config, self._parameters_of_each()
        count = self.replicas * sum(each.values())
        hidden = self.replicas * each["model.width"]
        optimizer = config.optimizer
        states = STATES[optimizer.name] + (getattr(optimizer, "momentum", 0) > 0)
        kept = 1 if self.is_full and config.steps > 0 else 0
        has_sum = optimizer.weight_decay > 0 and optimizer.name != "adamw"
        scratch = int(optimizer.name != "sgd") + int(has_sum or getattr(optimizer, "nesterov", False))
        always = (2 + kept + states) * count + scratch * hidden
        graph = self._graph()
        has_both = config.probe.cotangent == "random"  # the graph is kept for a second backward pass
        handed_over = int(2 * SCATTER * self.item * count) if has_both else max(0, self.item * count - graph)
        written = 2 * (1 + states) * self.item * count if config.checkpoint.every or config.checkpoint.seconds else 0
        layer = self.replicas * max(n // self.depth if key == "model.width" else n for key, n in each.items())
        drawn = DOUBLE * (count + 2 * layer)
        device = always * self.item + handed_over
        host = max(0, written - handed_over - graph, drawn - device)
        keys = {"model.width": ("model.width", "model.depth", "replicas")}
        keys |= {key: (key, "model.width", "replicas") for key in each if key != "model.width"}
        return Part(host, device, "parameters, gradients and optimizer", keys[max(each, key=lambda key: each[key])])

    def _parameters_of_each(self) -> Mapping[str, int]:
        """Parameters of one replica, by the key that makes them many."""
        bias = int(self.config.model.bias)
        first = self.width if self.has_embedding else self.features
        up = self.maps * self.hidden * (self.width + bias)
        down = self.width * (self.hidden + bias) if self.is_ffn else 0
        norm = 0
        if getattr(self.config.norm, "affine", False):
            units = self.hidden if self.place == "inner" else self.width
            norm = units * (1 if self.config.norm.name == "rms" else 2)
        wide = self.depth * (up + down + norm + 2) + bias * self.width
        outer = self.maps * self.hidden * (first - self.width)
        outer += self.width * self.features if self.has_embedding else 0
        inputs = "data.path" if isinstance(self.config.data, schema.Npz) else "data.features"
        outputs = "data.path" if isinstance(self.config.data, schema.Npz) else "data.classes"
        found = {"model.width": wide + min(0, outer), outputs: self.classes * (self.width + bias)}
        found[inputs] = found.get(inputs, 0) + max(0, outer)
        return {key: count for key, count in found.items() if count > 0}

    def activations(self) -> Part:
        """The graph of a training step, or an evaluation if that is larger."""
        largest = max(self.maps * self.hidden, self.width, self.features)
        number = self.item * self.replicas * self.batch
        layers = self._graph(has_ends=False) + MOMENT * number * largest
        ends = self._graph() - self._graph(has_ends=False)
        step = self._scattered(layers, number * largest) + self._scattered(ends, number * self.classes)
        units = max(self.maps * self.hidden, self.width)
        rows = max(min(EVAL_ROWS, self.test), min(self.config.probe.examples, self.train))
        forward = self.item * self.replicas * rows * 3 * (units + self.classes)
        if forward > step:
            return Part(0, forward, "held-out examples", ("replicas", "model.width"))
        return Part(0, step, "activations", ("batch_size", "model.width", "replicas"))

    def _graph(self, has_ends: bool = True) -> int:
        """Bytes that autograd keeps of one forward pass over a batch; the ends are inputs, logits and the loss."""
        ends = 2 * self.features + 4 * self.classes + 2 * self.width if has_ends else 0
        return self.item * self.replicas * self.batch * int(ends + self.depth * _kept(self))

    def _scattered(self, size: int, tensor: int) -> int:
        """What tensors of that many bytes, `size` in all, take of the device's memory."""
        if not self.is_on_host or tensor >= MAPPED:
            return size
        return int(size * (SCATTER_TWICE if self.config.probe.cotangent == "random" else SCATTER))

    def data(self) -> Part:
        """Examples while they are made, and then on the device, and the order in which each replica walks through."""
        numbers = (self.train + self.test) * self.features
        name = self.config.data.name
        copies = {"mnist": OPENML_COPIES, "fashion_mnist": OPENML_COPIES, "gaussian": 2}.get(name, npz.COPIES)
        stays = self.item * numbers
        order = DOUBLE * self.replicas * self.train + 3 * DOUBLE * max(BLOCK_INDICES, self.replicas * self.batch)
        keys: tuple[str, ...] = ("data.examples", "data.features")
        if name in ("digits", "mnist", "fashion_mnist") or order > copies * DOUBLE * numbers:
            keys = ("replicas",)
        elif name == "npz":
            keys = ("data.path",)
        elif name == "gaussian" and self.features > self.train:
            keys = ("data.features", "data.examples")
        elif name != "gaussian":
            keys = ("data.examples",)
        return Part(copies * DOUBLE * numbers - stays + order, stays, "the data", keys)

    def readings(self) -> Part:
        """Records, and the table made of them; in a checkpoint they are once more."""
        config, quantities = self.config, len(_layer_quantities(self.is_full))
        steps, every = config.steps, config.probe.every
        count = min(steps, 1) + 1 + (max(0, steps - 1) // every if every else 0)
        numbers = count * self.replicas * (quantities * self.depth + SCALARS)
        if config.probe.jacobian:
            numbers += count * self.replicas * min(self.width, self.features, LARGEST_EXACT)
        keys = ("probe.every", "replicas", "model.depth") if count > FEW_READINGS else ("replicas", "model.depth")
        return Part(3 * DOUBLE * numbers + count * RECORD_OBJECTS, 0, f"{count} readings", keys)

    def jacobians(self) -> Part:
        """What `lab.measure.jacobian` takes at its peak."""
        rows, width = min(JACOBIAN_ROWS, self.width), self.width
        matrix = self.replicas * width * self.features
        shorter = min(width, self.features)
        after = 2 * self.item * matrix + 4 * DOUBLE * matrix + 3 * DOUBLE * self.replicas * shorter**2
        per_example = self._graph() // self.batch
        largest = max(self.maps * self.hidden, width, self.features)
        if self.config.norm.name == "batch":
            examples = min(self.config.probe.examples, self.train)
            moment = VMAP_MOMENT * self.item * self.replicas * rows * examples * largest
            during = per_example * examples + moment + self.item * matrix * examples
        else:
            during = rows * (per_example + MOMENT * self.item * self.replicas * largest)
        return Part(
            0, max(after, self._scattered(during, 0)), "the Jacobians", ("probe.jacobian", "replicas", "model.width")
        )

    def objects(self) -> Part:
        """Python's own."""
        layers, replicas = LAYER_OBJECTS * self.depth, REPLICA_OBJECTS * self.replicas
        keys = ("model.depth",) if layers > replicas else ("replicas",)
        return Part(LIBRARIES + layers + replicas, 0, "the objects of layers and replicas", keys)


SCALARS = 10
"""Quantities of a reading without a layer axis."""


def _layer_quantities(is_full: bool) -> Sequence[str]:
    """The quantities of a reading with a layer axis."""
    from lab.readings import LAYER_QUANTITIES, NORMS

    return list(LAYER_QUANTITIES) if is_full else NORMS


def _kept(size: _Size) -> float:
    """Numbers that autograd keeps of one layer, for one example of one replica.

    Each operation keeps what its derivative needs: a map its input, a norm its input (batch norm: the centred one) and
    with a gain also the normalized values, an activation its output or its input, a product both factors. What one
    operation gives to the next and both keep is one tensor, and is counted where it is made.
    """
    config, width, hidden = size.config, size.width, size.hidden
    name, norm = config.activation.name, config.norm.name
    outputs_of_norm = 1 + getattr(config.norm, "affine", False) + (norm == "batch")
    kept = 0.0
    if size.place == "pre":
        kept += outputs_of_norm * width
    if size.place == "inner":
        kept += (norm != "batch") * hidden + outputs_of_norm * hidden  # z, and what the norm makes of it
        kept -= hidden if name not in READS_INPUT and name != "identity" else 0
    elif name in READS_INPUT or size.maps == 2:
        kept += size.maps * hidden  # z
    kept += 0 if name == "identity" and size.place == "inner" else hidden  # the activation itself
    kept += {"prelu": 0.5, "rrelu": 1.5, "swish": 1.0}.get(name, 0.0) * hidden  # masks, drawn slopes, the sigmoid
    kept += hidden if size.maps == 2 and name != "bilinear" else 0  # the gate
    if size.is_ffn:
        kept += width
    if config.residual.name != "none":
        kept += width + (width if config.residual.name == "rezero" and not size.is_ffn else 0)
        kept -= width if size.is_ffn and config.residual.name != "rezero" else 0
    if size.place == "post":
        kept += outputs_of_norm * width
    return kept


def _extent(data: schema.Data) -> npz.Extent:
    """Examples, features and classes of a data set, without loading it."""
    if isinstance(data, schema.Npz):
        found = npz.extent(data.path, most_numbers=available() // DOUBLE)
        return found or npz.Extent(2, 1, 1, 2)
    if isinstance(data, schema.OpenML):
        return npz.Extent(60_000, 10_000, 784, 10)
    if isinstance(data, schema.GaussianData | schema.Spirals | schema.Circles):
        held_out = data.examples // 5
        return npz.Extent(data.examples - held_out, held_out, getattr(data, "features", 2), getattr(data, "classes", 2))
    return npz.Extent(1438, 359, 64, 10)


def _value(config: Config, key: str) -> object:
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return str(value).lower() if isinstance(value, bool) else value
