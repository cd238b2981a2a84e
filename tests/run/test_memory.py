"""A run's memory predicted from its configuration, against the peak that the operating system measured."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lab import data
from lab.compose import compose
from lab.machine import memory as machine_memory
from lab.run import memory
from lab.schema import ConfigError, Npz
from tests.conftest import Command

REPOSITORY = Path(__file__).parents[2]
CPU = torch.device("cpu")
MIB = 2**20

PEAK = """
import pathlib, sys, tempfile
import lab
from lab.compose import compose
from lab.run.execution import run
overrides = sys.argv[1:]
if "checkpoint.seconds=0" in overrides:
    lab.simulate(*overrides)
else:
    with tempfile.TemporaryDirectory() as folder:
        run(compose(overrides), pathlib.Path(folder, "run"), is_quiet=True)
status = pathlib.Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
"""
"""Without checkpoints there is no need for a folder, whose pictures at the end take more than a small run."""
COMMON = ("data=gaussian", "data.examples=200", "data.features=8", "threads=1", "device=cpu", "checkpoint.seconds=0")
NOTHING = (*COMMON, "model.depth=1", "model.width=1", "replicas=1", "batch_size=2", "steps=2")

WIDE = ("model.depth=4", "model.width=1500", "batch_size=8", "replicas=1", "steps=2")
LONG = ("model.depth=30", "model.width=128", "batch_size=1024", "replicas=4", "steps=1")
SHORT = ("model.depth=10", *LONG[1:])

# ReLU alone is not among them. Autograd keeps its outputs only, and whether the room of its inputs is used again is the
# allocator's luck: LONG has been measured from 83 to 189 MiB, of 171 that are predicted.
RUNS = {
    "parameters, sgd": WIDE,
    "parameters, adam, float64": (*WIDE, "model.width=800", "optimizer=adam", "dtype=float64"),
    "parameters, adam, a checkpoint": (*WIDE, "optimizer=adam", "checkpoint.every=1", "checkpoint.seconds=60"),
    "parameters, momentum and decay": (*WIDE, "optimizer.momentum=0.9", "optimizer.weight_decay=0.1"),
    "activations, gelu": (*LONG, "activation=gelu"),
    "activations, batch norm": (*LONG, "norm=batch"),
    "activations, gated ffn": (
        *(*SHORT, "activation=swiglu", "model.block=ffn"),
        *("norm=layer", "norm.place=pre", "residual=identity"),
    ),
    "activations, learnt skip": (
        *(*SHORT, "activation=gelu", "model.block=ffn"),
        *("norm=rms", "norm.place=post", "residual=rezero"),
    ),
    "activations, a second backward pass": (*LONG, "activation=tanh", "probe.cotangent=random", "model.width=256"),
    "data": (*SHORT, "model.depth=1", "batch_size=8", "data.examples=200000", "data.features=128"),
    "readings": (
        *("model.depth=60", "model.width=4", "batch_size=4", "replicas=60"),
        *("steps=400", "probe.every=1", "probe.eval_every=0"),
    ),
    "classes": ("model.depth=2", "model.width=64", "batch_size=256", "replicas=2", "data.classes=20000", "steps=2"),
    "layers": ("model.depth=10000", "model.width=2", "batch_size=2", "replicas=1", "steps=1"),
    "replicas": ("model.depth=1", "model.width=2", "batch_size=2", "replicas=20000", "steps=1"),
    "Jacobians": (*SHORT, "model.width=256", "batch_size=8", "norm=batch", "probe.jacobian=true"),
}


def measured(overrides: tuple[str, ...]) -> int:
    """Peak resident bytes of a process of its own that does nothing else."""
    words = [sys.executable, "-c", PEAK, *overrides]
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    return int(done.stdout) * 1024


def predicted(overrides: tuple[str, ...]) -> float:
    return sum(part.host for part in memory.predict(compose(overrides)))


@pytest.fixture(scope="module")
def baseline() -> int:
    """The smallest of three: compiling modules at their first import, and the like, only ever add to a peak."""
    return min(measured(NOTHING) for _ in range(3))


def _key(override: str) -> str:
    return override.partition("=")[0]


SLACK = 25 * MIB
"""The import of the libraries peaks this much above what is left of it, room that a run fills first (measured: 20)."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="allocators of other systems keep other amounts")
@pytest.mark.parametrize("run", RUNS)
def test_the_prediction_is_between_two_thirds_and_twice_the_measured_peak(run: str, baseline: int):
    overrides = (*(word for word in COMMON if _key(word) not in map(_key, RUNS[run])), *RUNS[run])
    peak = measured(overrides) - baseline + SLACK
    expected = predicted(overrides) - predicted(NOTHING) + SLACK
    print(f"{run}: {peak / MIB:.0f} MiB measured, {expected / MIB:.0f} predicted, ratio {expected / peak:.2f}")
    assert peak > 70 * MIB  # large enough to mean something
    assert 2 / 3 < expected / peak < 2


def test_twice_the_size_is_predicted_to_take_twice_the_memory_of_what_grows_with_it():
    # By hand: SGD holds values, gradients and the copy for update_ratio.
    def parameters(*overrides: str) -> float:
        parts = memory.predict(
            compose([*COMMON, "model.depth=4", "model.bias=false", "batch_size=1", "replicas=3", *overrides]),
            is_on_gpu=True,
        )
        return next(part.device for part in parts if part.purpose.startswith("parameters"))

    units, replicas, float32 = 2000, 3, 4
    weights = replicas * (8 * units + 3 * units**2 + 10 * units)
    for optimizer, tensors in {"sgd": 3, "adam": 6, "rmsprop": 5}.items():
        # and the gradients of one backward pass, of which the activations leave little
        expected = (tensors + 1) * float32 * weights
        assert parameters(f"model.width={units}", f"optimizer={optimizer}") == pytest.approx(expected, rel=0.02)
    single = parameters("model.width=2000")
    assert parameters("model.width=2000", "dtype=float64") == pytest.approx(2 * single, rel=0.01)
    assert parameters("model.width=2000", "replicas=6") == pytest.approx(2 * single, rel=0.01)
    assert parameters("model.width=4000") == pytest.approx(4 * single, rel=0.02)


@pytest.mark.parametrize(
    ("overrides", "tensors"),
    [
        ((), 1),  # relu saves its output, which is the next layer's input
        (("activation=tanh",), 1),
        (("activation=gelu",), 2),  # its input and its output
        (("activation=swiglu",), 4),  # both maps, the gate's value, the output
        (("model.block=ffn",), 4 + 1),  # four times the width, and the block's output
        (("norm=layer", "norm.place=pre", "activation=gelu"), 2 + 2),  # the norm's input is the output before
    ],
)
def test_the_tensors_that_autograd_saves_are_counted_on_a_miniature(overrides: tuple[str, ...], tensors: float):
    config = compose(overrides)
    saved = memory.saved_per_unit(config.activation, config.norm, config.residual, config.model.block, None)
    assert saved == pytest.approx(tensors, abs=0.1)  # means and deviations are small


@pytest.mark.parametrize(
    ("name", "extent"), [("digits", ()), ("spirals", ("classes=5",)), ("circles", ()), ("gaussian", ("features=7",))]
)
def test_the_extent_of_data_is_known_without_making_it(name: str, extent: tuple[str, ...]):
    config = compose([f"data={name}", *(f"data.{word}" for word in extent)]).data
    made = data.load(config, torch.float32, CPU)
    found = (len(made.train_y), len(made.test_y), made.features, made.classes)
    assert tuple(memory.extent(config)) == found


@pytest.mark.parametrize("has_test", [True, False])
def test_the_extent_of_a_file_is_known_from_its_headers_and_labels(tmp_path: Path, has_test: bool):
    arrays = {"x_train": np.ones((50, 2, 3)), "y_train": np.arange(50) % 4}
    if has_test:
        arrays |= {"x_test": np.ones((7, 2, 3)), "y_test": np.arange(7) % 4}
    np.savez_compressed(tmp_path / "own.npz", **arrays)  # type: ignore[arg-type]
    train, test, features, classes = memory.extent(Npz("npz", str(tmp_path / "own.npz")))
    assert (train + test, features, classes) == (57 if has_test else 50, 6, 4)


# --- refused before anything is allocated ----------------------------------------------------------------------------

TOO_LARGE = {
    "model.width=100000 model.depth=100": (
        "model.width=100000: ",
        "lower model.width, or lower model.depth or replicas",
    ),
    "data=gaussian data.classes=100000 data.features=1000000 data.examples=20000": (
        "data.features=1000000: ",
        "lower data.features, or lower data.examples",
    ),
    "data=gaussian data.features=1000000 model.width=10000 data.examples=20": ("data.features=1000000: ", "lower"),
    "data=gaussian data.classes=100000 model.depth=1 batch_size=8 data.examples=20 replicas=50": (
        "data.classes=100000: ",
        "lower data.classes",
    ),
    "data=spirals data.examples=10000000 replicas=1000": ("replicas=1000: ", "lower replicas"),
    "batch_size=1000000 model.width=512": ("batch_size=1000000: ", "lower batch_size"),
    "batch_size=100000 model.block=ffn activation=swiglu model.depth=200": ("batch_size=100000: ", "lower batch_size"),
    "steps=1000000000000 probe.every=1": ("probe.every=1: ", "raise probe.every"),
    "replicas=100000 model.depth=1000": ("model.width=128: ", "or lower model.depth or replicas"),
    "model.depth=100000 model.width=1 replicas=1000 batch_size=1": ("replicas=1000: ", "lower replicas"),
    "model.width=500 model.depth=1 replicas=3000 probe.jacobian=true batch_size=1 data=gaussian data.features=500": (
        "probe.jacobian=true: ",
        "leave probe.jacobian out",
    ),
}


@pytest.mark.parametrize("given", TOO_LARGE)
def test_what_does_not_fit_is_refused_with_the_figure_and_the_remedy_before_it_is_allocated(
    gradlab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
):
    monkeypatch.setattr(memory, "available", lambda: 8 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begins, says = TOO_LARGE[given]
    for sweep in ([], ["-m", "seed=1,2"]):
        refused = gradlab("run", *given.split(), "device=cpu", *sweep)
        assert refused.status == 2, refused.err
        assert refused.err.startswith(begins)
        assert says in refused.err
        assert "and 8 GiB are free; " in refused.err
        assert refused.err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # kilobytes


def test_what_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch):
    config = compose(["model.depth=50", "model.width=256"])
    needed = sum(part.host for part in memory.predict(config))
    assert needed < 2**30
    for free, is_refused in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr(memory, "available", lambda free=free: free)
        if is_refused:
            with pytest.raises(ConfigError, match=r"this run would take .* MiB of memory"):
                memory.refuse_too_large(config, CPU)
        else:
            memory.refuse_too_large(config, CPU)


def test_a_gpus_memory_is_asked_for_what_lies_there(monkeypatch: pytest.MonkeyPatch):
    config = compose(["model.depth=50", "model.width=1000", "device=cuda"])
    parts = memory.predict(config, is_on_gpu=True)
    on_device = sum(part.device for part in parts)
    assert on_device > 10 * 50 * 4 * 1000**2
    monkeypatch.setattr(memory, "available", lambda: 2**40)
    monkeypatch.setattr(memory, "available_on", lambda device: on_device - 1)
    with pytest.raises(ConfigError, match=r"^model\.width=1000: this run would take .* of the GPU's memory"):
        memory.refuse_too_large(config, torch.device("cuda"))
    monkeypatch.setattr(memory, "available_on", lambda device: on_device)
    memory.refuse_too_large(config, torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("run", [name for name in RUNS if name.startswith(("parameters", "activations", "Jacobians"))])
def test_on_a_gpu_the_prediction_is_between_half_and_twice_the_measured_peak(run: str):
    from lab.run.simulation import simulate

    overrides = [word for word in (*COMMON, *RUNS[run]) if word != "device=cpu"]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    simulate(*overrides, "device=cuda")
    peak = torch.cuda.max_memory_allocated() - before
    expected = sum(part.device for part in memory.predict(compose(overrides), is_on_gpu=True))
    print(f"{run}: {peak / MIB:.0f} MiB measured, {expected / MIB:.0f} predicted, ratio {expected / peak:.2f}")
    assert 0.5 < expected / peak < 2


# --- what there is --------------------------------------------------------------------------------------------------


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:    4000000 kB\n"}


def test_what_is_free_is_the_machines_memory_where_nothing_confines_the_process(tmp_path: Path):
    assert machine_memory.available(machine(tmp_path, MEMINFO)) == 4_000_000 * 1024
    unlimited = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}
    assert machine_memory.available(machine(tmp_path, unlimited)) == 4_000_000 * 1024


@pytest.mark.parametrize(
    ("table", "folder", "names", "droppable"),
    [
        ("0::/user/job\n", "sys/fs/cgroup/user", ("memory.max", "memory.current"), "inactive_file"),
        ("0::/user/job\n", "sys/fs/cgroup/user/job", ("memory.max", "memory.current"), "inactive_file"),
        (
            "5:memory:/job\n0::/\n",
            "sys/fs/cgroup/memory/job",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file",
        ),
        (
            "5:memory:/elsewhere\n",  # in a container, whose own folder stands at the root
            "sys/fs/cgroup/memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            "total_inactive_file",
        ),
    ],
)
def test_what_is_free_is_what_the_smallest_cgroup_around_the_process_leaves(
    tmp_path: Path, table: str, folder: str, names: tuple[str, str], droppable: str
):
    files = {
        "proc/self/cgroup": table,
        f"{folder}/{names[0]}": "1000000\n",
        f"{folder}/{names[1]}": "700000\n",
        f"{folder}/memory.stat": f"anon 5\n{droppable} 50000\n",
    }
    assert machine_memory.available(machine(tmp_path, MEMINFO | files)) == 350_000


def test_where_there_is_no_proc_all_of_the_machines_memory_counts(tmp_path: Path):
    assert machine_memory.available(tmp_path) > 2**28
