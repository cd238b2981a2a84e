"""What a run's folder must hold, in the tests' own words: other programs and the users rely on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

LAYER_QUANTITIES = {
    *("pre_rms", "pre_mean", "act_rms", "act_mean", "zero_fraction", "dead_fraction", "saturated_fraction"),
    *("delta_rms", "weight_grad_norm", "bias_grad_norm", "weight_norm", "layer_gain", "update_ratio", "nonfinite"),
}
SCALAR_QUANTITIES = {"loss", "eval_loss", "eval_accuracy", "grad_norm", "clipped_grad_norm", "delta_slope"}
PREDICTED = {f"predicted_{name}{end}" for name in ("delta_rms", "pre_rms") for end in ("", "_lower", "_upper")}
READOUT_QUANTITIES = {"readout_weight_grad_norm", "readout_weight_norm"}


def assert_keeps_contract(folder: Path, status: str = "finished") -> tuple[xr.Dataset, dict[str, Any]]:
    """Check everything about a folder that a full set of probes must leave; return its readings and its summary."""
    names = {path.name for path in folder.iterdir()}
    [events] = [name for name in names if name.startswith("events.out.tfevents.")]
    assert names - {"checkpoints"} == {".hydra", events, "readings.nc", "summary.json", "gradients.png"}
    assert status == "interrupted" or "checkpoints" not in names
    assert (folder / ".hydra" / "config.yaml").read_text().startswith("activation:")
    with Image.open(folder / "gradients.png") as picture:
        picture.load()
        assert picture.width > picture.height > 300

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == status
    wanted = {"last", "best", "replicas", "first_nonfinite", "fingerprint", "versions", "device", "seconds", "config"}
    assert wanted <= set(summary)

    table = xr.load_dataset(folder / "readings.nc", engine="h5netcdf")
    assert {name for name in table if table[name].dims == ("step", "layer", "replica")} == LAYER_QUANTITIES
    of_a_run = {name for name in table if table[name].dims == ("step", "replica")}
    predicted = {name for name in table if str(name).startswith("predicted_")}
    assert of_a_run == SCALAR_QUANTITIES | READOUT_QUANTITIES == set(table) - LAYER_QUANTITIES - predicted
    assert predicted in (PREDICTED, set())
    assert ("delta_slope" in summary["theory"]) == bool(predicted)
    for name, variable in table.data_vars.items():
        assert variable.dtype == np.float64, name
        assert variable.attrs["long_name"], name
        assert variable.attrs["units"], name
    assert json.loads(table.attrs["config"]) == summary["config"]
    assert json.loads(table.attrs["versions"]) == summary["versions"]
    assert table.attrs["fingerprint"] == summary["fingerprint"]
    assert len(summary["replicas"]) == table.sizes["replica"] == summary["config"]["replicas"]
    assert table.sizes["layer"] == summary["config"]["model"]["depth"]
    return table, summary
