"""Many runs: planning, launching, status, collecting and comparing. Its heavy modules are imported by name."""

from lab.sweep.status import RunState, count_states, find_runs, time_left

__all__ = ["RunState", "count_states", "find_runs", "time_left"]
