"""Hydra's only door: overrides and files become a frozen `Config`, and errors become sentences."""

from lab.compose.composition import compose, compose_job, compose_tree, to_config, with_numbers
from lab.compose.config_store import HYDRA_ERRORS, conf_dir, register
from lab.compose.errors import explain
from lab.compose.overrides import expand_home, jobs_of_sweep, parse, swept_keys

__all__ = ["HYDRA_ERRORS", "compose", "compose_job", "compose_tree", "conf_dir", "expand_home", "explain"]
__all__ += ["jobs_of_sweep", "parse", "register", "swept_keys", "to_config", "with_numbers"]
