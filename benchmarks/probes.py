"""The cost of measuring: `python -m benchmarks.probes`.

Depth 50, batch 128, ReLU, SGD, on the CPU (or the GPU with --device cuda). For each width, number of replicas and
number of threads, one training step of each of the following is timed in turn in one process; medians and ratios are
printed:

    no probes       the lab's step without a reading
    norms           the same with probe.set=norms at every step
    full            the same with probe.set=full at every step
    default         mean step at the default cadence, with readings and evaluation on held-out data
    plain           one such network as torch.nn.Sequential with torch.optim.SGD and no instrument
    by hand         plain, with typical user code: .item() of every gradient norm, a dead-unit hook, all to add_scalar
    products        the matrix products alone, three per layer: the lower bound
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.timing import Step, interleave, machine
from lab import compose, data
from lab.train.loop import due
from lab.train.trainer import Due, Trainer

DEPTH, BATCH = 50, 128


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.probes", description="The cost of measuring.")
    parser.add_argument("--turns", type=int, default=25, help="timed turns (default: 25)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args(arguments or None)
    table = Table(box=MARKDOWN)
    heads = ("threads", "width", "replicas", "no probes", "norms", "full", "default", "plain", "by hand", "products")
    ratios = (
        "full / no probes",
        "norms / no probes",
        "default / no probes",
        "full per replica / plain",
        "by hand / full per replica",
    )
    for head in (*heads, *ratios):
        table.add_column(head, justify="right")
    console = Console(width=190)
    console.print(
        f"One step, depth {DEPTH}, batch {BATCH}, ReLU: milliseconds and ratios, medians of {options.turns} turns\n"
    )
    for threads in options.threads:
        torch.set_num_threads(threads)
        for width in options.widths:
            for replicas in options.replicas:
                with tempfile.TemporaryDirectory() as folder:
                    times = measure(width, replicas, options.turns, torch.device(options.device), folder)
                table.add_row(str(threads), str(width), str(replicas), *_cells(times, replicas))
    console.print(table)
    console.print(machine())


def measure(width: int, replicas: int, turns: int, device: torch.device, folder: str) -> dict[str, float]:
    """Return the median seconds of each side."""
    common = [f"model.depth={DEPTH}", f"model.width={width}", f"batch_size={BATCH}", f"replicas={replicas}"]
    sides: dict[str, Step] = {}
    for name, probe_set in (("no probes", "full"), ("norms", "norms"), ("full", "full"), ("evaluated", "full")):
        config = compose.compose([*common, f"probe.set={probe_set}", "optimizer.lr=0.001"])
        trainer = Trainer(config, data.load(config.data, torch.float32, device), device)
        is_reading, is_evaluated = name != "no probes", name == "evaluated"
        sides[name] = lambda t=trainer, r=is_reading, e=is_evaluated: t.step(Due(reading=r, evaluation=e))  # type: ignore[misc]
    sides["plain"] = _plain(width, device)
    sides["by hand"] = _by_hand(width, device, folder)
    sides["products"] = _products(width, replicas, device)
    times = interleave(sides, turns)
    config = compose.compose([*common, "steps=1000000"])
    period = max(config.probe.every, config.probe.eval_every)  # both cadences repeat after this many steps
    total = sum(
        times["evaluated" if parts.evaluation else "full" if parts.reading else "no probes"]
        for parts in (due(config, step) for step in range(1, period + 1))
    )
    return {**times, "default": total / period}


def _cells(times: dict[str, float], replicas: int) -> Iterator[str]:
    for name in ("no probes", "norms", "full", "default", "plain", "by hand", "products"):
        yield f"{1000 * times[name]:.2f}"
    for name in ("full", "norms", "default"):
        yield f"{times[name] / times['no probes']:.3f}"
    yield f"{times['full'] / replicas / times['plain']:.3f}"
    yield f"{times['by hand'] / (times['full'] / replicas):.1f}"


def _network(width: int, device: torch.device) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in range(DEPTH):
        layers += [nn.Linear(64 if layer == 0 else width, width), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)  # type: ignore[arg-type]  # nn.Linear's weight is a Parameter
    return nn.Sequential(*layers, nn.Linear(width, 10)).to(device)


def _batches(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    digits = data.load(compose.compose().data, torch.float32, device)
    while True:
        rows = torch.randint(len(digits.train_x), (BATCH,), device=device)
        yield digits.train_x[rows], digits.train_y[rows]


def _plain(width: int, device: torch.device) -> Step:
    model, batches = _network(width, device), _batches(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def _by_hand(width: int, device: torch.device, folder: str) -> Step:
    """Return a step as in many tutorials: everything is written to TensorBoard, one scalar at a time."""
    from torch.utils.tensorboard import SummaryWriter

    model, batches = _network(width, device), _batches(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    writer, count = SummaryWriter(folder), 0
    dead: dict[str, float] = {}

    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(
                lambda _module, _args, output, name=name: dead.__setitem__(
                    name, (output == 0).all(0).float().mean().item()
                )
            )

    def step() -> None:
        nonlocal count
        x, y = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        writer.add_scalar("loss", loss.item(), count)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            writer.add_scalar(f"gradient/{name}", parameter.grad.norm().item(), count)
        for name, share in dead.items():
            writer.add_scalar(f"dead/{name}", share, count)
        optimizer.step()
        count += 1

    return step


def _products(width: int, replicas: int, device: torch.device) -> Step:
    x, w = torch.randn(replicas, BATCH, width, device=device), torch.randn(replicas, width, width, device=device)

    def step() -> None:
        for _ in range(DEPTH):
            torch.bmm(x, w)
            torch.bmm(x, w.transpose(1, 2))  # the gradient with respect to the input
            torch.bmm(x.transpose(1, 2), x)  # the gradient with respect to the weights

    return step


if __name__ == "__main__":
    main()
