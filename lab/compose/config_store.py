"""Hydra's ConfigStore and search path, set up for the lab and restored afterwards."""

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra import version as hydra_version
from hydra.core.config_store import ConfigNode, ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from lab import schema

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, ValueError, OverflowError)
"""Raised by Hydra and OmegaConf on bad input, the built-in ones from their insides."""

RESOLVERS = ("now",)
"""Functions that ${name:...} may call while files are composed; the others read the environment or decode text."""


def conf_dir() -> Path:
    """Return the config tree: inside the package when installed from a wheel, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def compose_with_hydra(overrides: Sequence[str]) -> DictConfig:
    """Compose conf/config.yaml and these overrides, with Hydra's own part; nothing is resolved or checked."""
    with _hydra_for_the_lab():
        return hydra_compose("config", overrides=list(overrides), return_hydra_config=True)


def register() -> None:
    """Register the schema in Hydra's ConfigStore: the root, and every option under its group.

    The root is named `schema`, which conf/config.yaml lists first in its defaults.
    """
    # A file named like a registered option, such as a launcher's, is meant to be merged with it.
    warnings.filterwarnings("ignore", r"\s*'[\w/]+' is validated against ConfigStore", UserWarning)
    repository = ConfigStore.instance().repo
    repository["schema.yaml"] = _root()
    for group, options in schema.CHOICES.items():
        repository[group] = {f"{name}.yaml": _option(group, name, node) for name, node in options.items()}


@functools.cache
def _root() -> ConfigNode:
    tree = _writable(schema.Config)
    tree.optimizer = _writable(schema.Optimizer)  # not its default SGD, whose place no other optimizer could take
    return ConfigNode("schema.yaml", tree, group=None, package=None, provider="gradlab")


@functools.cache
def _option(group: str, name: str, options: type) -> ConfigNode:
    return ConfigNode(f"{name}.yaml", _writable(options(name=name)), group, package=None, provider="gradlab")


@contextmanager
def _hydra_for_the_lab() -> Iterator[None]:
    """Set Hydra up for the lab within the block, and for the calling application again after it."""
    base, runtime, store = hydra_version.VersionBase.instance(), JobRuntime.instance(), ConfigStore.instance()
    application = GlobalHydra.instance().hydra, base.getbase(), runtime.conf.copy(), store.repo
    resolvers = BaseContainer._resolvers
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
            store.repo = dict(store.repo)
            register()
            BaseContainer._resolvers = {name: resolvers[name] for name in RESOLVERS}
            yield
    finally:
        BaseContainer._resolvers = resolvers
        GlobalHydra.instance().hydra, base.version_base, runtime.conf, store.repo = application


def _writable(node: Any) -> DictConfig:
    """Return the structured config of a frozen dataclass, without the read-only flags that would refuse overrides."""
    tree = node if isinstance(node, DictConfig) else OmegaConf.structured(node)
    OmegaConf.set_readonly(tree, None)
    for key in tree:
        if isinstance(tree[key], DictConfig):
            _writable(tree[key])
    return tree
