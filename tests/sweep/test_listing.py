"""sweep.json: written by several processes, read from anybody."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.sweep.listing import add_to_list, listed_runs


def test_sweeps_that_start_at_once_in_one_folder_are_all_listed(tmp_path: Path):
    sweeps = [
        [
            {"folder": f"{name},seed={seed + more}", "overrides": ["+seed=1"], "fingerprint": "x", "steps": 7}
            for more in (0, 1)
        ]
        for seed in range(0, 8, 2)
        for name in ("relu", "tanh")
    ]
    with ThreadPoolExecutor(len(sweeps)) as pool:
        for _ in range(5):
            list(pool.map(lambda entries: add_to_list(tmp_path, entries), sweeps))
            runs = listed_runs(tmp_path)
            assert runs.keys() == {entry["folder"] for entries in sweeps for entry in entries}
            assert {(run.fingerprint, run.steps, run.overrides["seed"]) for run in runs.values()} == {("x", 7, "1")}
            (tmp_path / "sweep.json").unlink()


def test_a_run_that_is_listed_again_keeps_its_place(tmp_path: Path):
    for steps in (1, 2):
        add_to_list(tmp_path, [{"folder": name, "steps": steps} for name in ("a", "b")][:: 3 - 2 * steps])
    assert [(name, run.steps) for name, run in listed_runs(tmp_path).items()] == [("a", 2), ("b", 2)]
    assert json.loads((tmp_path / "sweep.json").read_text())["runs"][0]["folder"] == "a"
