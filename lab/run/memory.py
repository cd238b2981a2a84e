"""Predicts the memory of a run from its configuration, and refuses a run that does not fit.

The prediction counts tensors by their shapes. Compared with measured peaks (tests/run/test_memory.py), it is between
2/3 and twice the peak, depending on how much memory the allocator can reuse.
"""

from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import torch

from lab import schema
from lab.data import BLOCK_INDICES, npz
from lab.data.sources import DIGITS_HELD_OUT, HOLD_OUT_EVERY, MNIST_TRAIN
from lab.machine.memory import available, available_on
from lab.machine.terminal import file_size
from lab.measure.jacobian import LARGEST_EXACT
from lab.network.network import Network
from lab.network.seeding import streams
from lab.readings import LAYER_QUANTITIES, NORMS, SCALAR_QUANTITIES
from lab.schema import Config, ConfigError
from lab.train.jacobian import ROWS
from lab.train.losses import EVAL_ROWS
from lab.train.update import optimizers

REMEDIES = {
    "probe.every": "raise probe.every",
    "probe.jacobian": "leave probe.jacobian out",
    "data.path": "take fewer examples or features",
}
"""Advice for keys that cannot be lowered."""
DOUBLE = 8
"""Bytes of a float64 or an int64."""
LIBRARIES = 200 * 2**20
"""Bytes of TensorBoard, xarray, matplotlib and pandas, which are imported during a run."""
LAYER_OBJECTS, REPLICA_OBJECTS, RECORD_OBJECTS = 15_000, 6_000, 10_000
"""Bytes of Python objects per layer (modules, hooks, graph), per replica (generators) and per reading."""
TEMPORARIES = 6
"""Tensors of the size of the largest activation in a layer's forward or backward pass; twice as many with vmap."""
FRAGMENTATION, FRAGMENTATION_TWICE, MAPPED = 1.6, 2.5, 32 * 2**20
"""Memory over size of host tensors below `MAPPED` bytes, with one and with two backward passes: C's allocator keeps
what they free, and larger ones get pages of their own (glibc's M_MMAP_THRESHOLD). Measured: 1.0 to 1.8, and 2.8."""
COPIES = {"mnist": 4, "fashion_mnist": 4, "gaussian": 2}
"""How many times the examples are in memory as float64 while they are loaded, unless `npz.COPIES`."""
MINIATURE_BATCH, MINIATURE_WIDTH = 32, 24


class Part(NamedTuple):
    """Some of a run's memory: bytes on the host and on the device, its purpose, and the keys that it grows with."""

    host: int
    device: int
    purpose: str
    keys: tuple[str, ...]


def refuse_too_large(config: Config, device: torch.device) -> None:
    """Refuse a configuration that will not fit, before anything is allocated.

    Args:
        config: of one network; for runs trained together it has the replicas of all of them.
        device: where it will be trained.

    Raises:
        ConfigError: it needs more memory than is free; the message has both figures and the keys to lower.
    """
    parts = predict(config, is_on_gpu=device.type != "cpu")
    places = [(attrgetter("host"), "memory", available())]
    if device.type == "cuda":
        places.append((attrgetter("device"), "the GPU's memory", available_on(device)))
    for size, place, free in places:
        needed, largest = sum(map(size, parts)), max(parts, key=size)
        if needed > free:
            key, *others = largest.keys
            remedy = REMEDIES.get(key, f"lower {key}") + (f", or lower {' or '.join(others)}" if others else "")
            value = attrgetter(key)(config)
            raise ConfigError(
                f"{key}={str(value).lower() if isinstance(value, bool) else value}: this run would take"
                f" {file_size(needed)} of {place}, {file_size(size(largest))} of it for {largest.purpose}, and"
                f" {file_size(free)} are free; {remedy}."
            )


def predict(config: Config, is_on_gpu: bool = False) -> list[Part]:
    """Predict the parts of a run's peak memory, over and above that of a process that has imported torch.

    An .npz file that cannot be read counts as empty: loading it reports the fault.
    """
    size = _Size(config, is_on_gpu)
    parts = [size.parameters(), size.activations(), size.data(), size.readings(), size.objects()]
    if config.probe.jacobian:
        parts.append(size.jacobians())
    return parts if is_on_gpu else [part._replace(host=part.host + part.device, device=0) for part in parts]


class _Size:
    """Bytes of each part of a run."""

    def __init__(self, config: Config, is_on_gpu: bool) -> None:
        model = config.model
        self.config, self.is_on_gpu, self.is_ffn = config, is_on_gpu, model.block == "ffn"
        self.item = torch.finfo(getattr(torch, config.dtype)).bits // 8
        self.train, self.test, self.features, self.classes = extent(config.data)
        self.depth, self.width, self.replicas = model.depth, model.width, config.replicas
        self.is_full = config.probe.set == "full"
        self.hidden = schema.hidden_units(model, config.activation) if self.is_ffn else self.width
        self.up = self.hidden * (2 if config.activation.name in schema.GATED else 1)  # pre-activations of a layer
        self.rows = self.replicas * config.batch_size
        expansion = model.expansion if self.is_ffn else None
        saved = saved_per_unit(config.activation, config.norm, config.residual, model.block, expansion)
        self.graph = int(self.item * self.rows * self.depth * saved * self.width)

    def parameters(self) -> Part:
        """Values, gradients, optimizer states and copies of them; weights are drawn in float64 on the host."""
        config, bias = self.config, int(self.config.model.bias)
        has_embedding = self.is_ffn or config.residual.name != "none"
        hidden = self.depth * (self.up * (self.width + bias) + self.is_ffn * self.width * (self.hidden + bias))
        inputs = self.features * self.width if has_embedding else self.up * (self.features - self.width)
        outputs = self.classes * (self.width + bias)
        count = self.replicas * (hidden + inputs + outputs)
        key = max((hidden, "model.width"), (inputs, "data.features"), (outputs, "data.classes"))[1]
        others = ("model.depth", "replicas") if key == "model.width" else ("model.width", "replicas")
        if key != "model.width" and isinstance(config.data, schema.Npz):
            key = "data.path"
        states = len(optimizers.build(config.optimizer, [torch.zeros(1, 1, 1)]).state)
        copies = int(self.is_full and config.steps > 0)  # for update_ratio
        scratch = int(config.optimizer.name != "sgd" or config.optimizer.weight_decay > 0)
        size, is_random = self.item * count, config.probe.cotangent == "random"
        # With random cotangents, the gradients of both backward passes are there beside the graph.
        device = size * (2 + states + copies + scratch) + (2 * size if is_random else max(0, size - self.graph))
        checkpoint = (config.checkpoint.every > 0 or config.checkpoint.seconds > 0) * 2 * size * (1 + states)
        drawing = DOUBLE * count * (self.depth + 2) // self.depth
        host = max(0, checkpoint - self.graph, drawing - device)
        return Part(host, device, "parameters, gradients and optimizer", (key, *others))

    def activations(self) -> Part:
        """The graph of a training step, or an evaluation if that is larger."""
        largest = self.item * self.rows * max(self.up, self.width, self.features)
        ends = self.item * self.rows * (2 * self.features + 4 * self.classes + 2 * self.width)
        step = self._fragmented(self.graph + TEMPORARIES * largest, largest)
        step += self._fragmented(ends, self.item * self.rows * self.classes)
        rows = max(min(EVAL_ROWS, self.test), min(self.config.probe.examples, self.train))
        evaluation = self.item * self.replicas * rows * 3 * (max(self.up, self.width) + self.classes)
        if evaluation > step:
            return Part(0, evaluation, "held-out examples", ("replicas", "model.width"))
        return Part(0, step, "activations", ("batch_size", "model.width", "replicas"))

    def data(self) -> Part:
        """Examples while they are loaded and on the device, and the order in which each replica goes through them."""
        numbers, name = (self.train + self.test) * self.features, self.config.data.name
        loading = COPIES.get(name, npz.COPIES) * DOUBLE * numbers
        order = DOUBLE * self.replicas * self.train + 3 * DOUBLE * max(BLOCK_INDICES, self.rows)
        largest_first = ("examples", "features") if self.train > self.features else ("features", "examples")
        keys = tuple(f"data.{key}" for key in (*largest_first, "path") if hasattr(self.config.data, key))
        keys = keys if keys and order <= loading else ("replicas",)
        return Part(loading - self.item * numbers + order, self.item * numbers, "the data", keys)

    def readings(self) -> Part:
        """Records, the table made of them, and their copy in a checkpoint."""
        every, steps = self.config.probe.every, self.config.steps
        count = min(steps, 1) + 1 + (max(0, steps - 1) // every if every else 0)
        numbers = len(LAYER_QUANTITIES if self.is_full else NORMS) * self.depth + len(SCALAR_QUANTITIES)
        if self.config.probe.jacobian:
            numbers += min(self.width, self.features, LARGEST_EXACT)
        keys = ("replicas", "model.depth") if count < 100 else ("probe.every", "replicas", "model.depth")
        return Part(count * (3 * DOUBLE * self.replicas * numbers + RECORD_OBJECTS), 0, f"{count} readings", keys)

    def jacobians(self) -> Part:
        """The larger of the backward passes and the decomposition of the matrices (R, width, features)."""
        matrices = self.replicas * self.width * self.features
        products = self.replicas * min(self.width, self.features) ** 2
        decomposition = (2 * self.item + 4 * DOUBLE) * matrices + 3 * DOUBLE * products
        rows, graph = min(ROWS, self.width), self.graph // self.config.batch_size
        largest = self.item * self.replicas * max(self.up, self.width, self.features)
        backward = rows * (graph + TEMPORARIES * largest)
        if self.config.norm.name == "batch":
            examples = min(self.config.probe.examples, self.train)
            backward = examples * (graph + 2 * TEMPORARIES * rows * largest + self.item * matrices)
        size = max(decomposition, self._fragmented(backward, 0))
        return Part(0, size, "the Jacobians", ("probe.jacobian", "replicas", "model.width"))

    def objects(self) -> Part:
        layers, replicas = LAYER_OBJECTS * self.depth, REPLICA_OBJECTS * self.replicas
        key = "model.depth" if layers > replicas else "replicas"
        return Part(LIBRARIES + layers + replicas, 0, "the objects of layers and replicas", (key,))

    def _fragmented(self, size: int, tensor: int) -> int:
        """Memory that tensors of at most `tensor` bytes and `size` bytes in all take on the device."""
        if self.is_on_gpu or tensor >= MAPPED:
            return size
        return int(size * (FRAGMENTATION_TWICE if self.config.probe.cotangent == "random" else FRAGMENTATION))


@lru_cache(maxsize=256)
def saved_per_unit(
    activation: schema.Activation, norm: schema.Norm, residual: schema.Residual, block: str, expansion: float | None
) -> float:
    """Count the numbers that autograd saves per layer, example, replica and unit of width, on a miniature network."""
    model = schema.Model(width=MINIATURE_WIDTH, block=block, expansion=expansion)
    config = Config(activation, norm=norm, residual=residual, model=model, replicas=1)
    shallow, deep = (_saved_bytes(replace(config, model=replace(model, depth=depth))) for depth in (2, 3))
    return (deep - shallow) / (4 * MINIATURE_BATCH * MINIATURE_WIDTH)


def _saved_bytes(config: Config) -> int:
    """Bytes of the distinct tensors that one forward pass saves for its backward pass, without parameters."""
    network = Network(config, MINIATURE_WIDTH, 2, [streams(0, 0)], torch.device("cpu"))
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda nothing: nothing):
        network(torch.zeros(1, MINIATURE_BATCH, MINIATURE_WIDTH))
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    return sum(size for address, size in sizes.items() if address not in parameters)


def extent(data: schema.Data) -> npz.Extent:
    """Count the training and held-out examples, features and classes of a data set, without loading it."""
    if isinstance(data, schema.Npz):
        return npz.extent(data.path, most_numbers=available() // DOUBLE) or npz.Extent(2, 1, 1, 2)
    if isinstance(data, schema.OpenML):
        return npz.Extent(MNIST_TRAIN, 70_000 - MNIST_TRAIN, 28 * 28, 10)
    if data.name == "digits":
        return npz.Extent(1797 - DIGITS_HELD_OUT, DIGITS_HELD_OUT, 64, 10)
    examples = getattr(data, "examples", 0)
    held_out = examples // HOLD_OUT_EVERY
    return npz.Extent(examples - held_out, held_out, getattr(data, "features", 2), getattr(data, "classes", 2))
