"""summary.json: the outcome of a run and of each of its replicas."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lab import schema
from lab.readings import Record, first_over_last, median

VERSIONS_OF = ("torch", "numpy", "xarray", "hydra-core")


class Summary:
    """The summary of a run, from its last reading and the best of each metric."""

    def __init__(self, config: schema.Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.last: Record | None = None
        self.best: dict[str, dict[str, float]] = {}

    def write(self, record: Record) -> None:
        self.last = record
        for name, is_better in (("loss", np.less), ("eval_loss", np.less), ("eval_accuracy", np.greater)):
            value = median(record.scalars[name])
            if value is not None and (name not in self.best or is_better(value, self.best[name]["value"])):
                self.best[name] = {"value": value, "step": record.step}

    def result(self, status: str, seconds: float, theory: Mapping[str, Any], error: str = "") -> dict[str, Any]:
        """Return the summary in JSON's types; metrics are medians over the replicas whose value is finite."""
        fates = [] if self.last is None else replica_fates(self.last, self.config.first_replica, status)
        diverged = (fate for fate in fates if fate["status"] == "diverged")
        first = min(diverged, key=lambda fate: fate["step"], default=None)
        if first and first["step"] == 0 and getattr(self.config.norm, "eps", 1.0) == 0:
            first = first | {"cause": "norm.eps=0 divides a unit that is constant by 0; give norm.eps a value above 0"}
        return {
            "status": status,
            "steps_done": self.last.step if self.last else 0,
            "last": metrics(self.last) if self.last else {},
            "best": self.best,
            "replicas": fates,
            "theory": theory,
            "first_nonfinite": first,
            "fingerprint": schema.fingerprint(self.config),
            "config": schema.as_dict(self.config),
            "versions": versions(),
            "device": describe_device(self.device),
            "seconds": round(seconds, 3),
        } | ({"error": error} if error else {})


def metrics(record: Record) -> dict[str, float | None]:
    """Return the medians of a reading's scalars, its dead fraction, and delta_rms at the first over the last layer."""
    ratio, dead = first_over_last(record), record.layers["dead_fraction"].mean(0)
    values = {**record.scalars, "dead_fraction": dead, "delta_rms_first_over_last": ratio}
    return {name: median(value) for name, value in values.items()}


def replica_fates(record: Record, first_replica: int, status: str) -> list[dict[str, Any]]:
    """Return number and status of each replica, the run's or diverged; then also the step and the layer."""
    fates: list[dict[str, Any]] = []
    for r, (step, layer) in enumerate(zip(record.diverged_at.tolist(), record.diverged_layer.tolist(), strict=True)):
        fates.append({"replica": first_replica + r, "status": status})
        if step >= 0:
            fates[-1] |= {"status": "diverged", "step": step, "layer": layer if layer >= 0 else None}
    return fates


def versions() -> dict[str, str]:
    """Return the versions of this package, Python and the libraries that can change a number."""
    installed = {name: importlib.metadata.version(name) for name in ("gradlab", *VERSIONS_OF)}
    return {"gradlab": installed.pop("gradlab"), "python": platform.python_version(), **installed}


def describe_device(device: torch.device) -> str:
    """Name the device: the GPU's model, or `cpu, 4 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
