"""Hydra's only door: overrides and files become a frozen `Config`, and errors become sentences."""

from lab.compose.composition import *  # noqa: F403
from lab.compose.config_store import *  # noqa: F403
from lab.compose.errors import *  # noqa: F403
from lab.compose.overrides import *  # noqa: F403
