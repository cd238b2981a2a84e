"""Hydra's ConfigStore and search path, set up for the lab and restored afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra import version as hydra_version
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from lab import schema
from lab.compose import untrusted
from lab.schema import Config

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, ValueError, OverflowError)
"""What composing raises on bad input; the plain ones come from the insides of Hydra and OmegaConf."""


def conf_dir() -> Path:
    """The config tree: inside the package when installed from a wheel, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def _compose(overrides: Sequence[str]) -> DictConfig:
    with _hydra():
        return hydra_compose("config", overrides=list(overrides), return_hydra_config=True)


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra, looking into conf/; afterwards it is as it was for the application that we may be called from.

    Within the block ${...} knows no functions but those of `safety.RESOLVERS`: a list of defaults, which nobody sees
    after it has been followed, cannot look at the environment either.
    """
    base, runtime = hydra_version.VersionBase.instance(), JobRuntime.instance()
    host, version, names = GlobalHydra.instance().hydra, base.getbase(), runtime.conf.copy()
    resolvers = BaseContainer._resolvers
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings(), initialize_config_dir(str(conf_dir()), version_base="1.3"):
            # The launchers' presets are meant to be held against their plugins' schemas.
            warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore", UserWarning)
            known = BaseContainer._resolvers
            BaseContainer._resolvers = {name: known[name] for name in untrusted.RESOLVERS}
            yield
    finally:
        BaseContainer._resolvers = resolvers
        GlobalHydra.instance().hydra, base.version_base, runtime.conf = host, version, names


def register() -> None:
    """Make the schema classes known to Hydra under schema/; calling it again changes nothing."""
    store = ConfigStore.instance()
    for group, options in schema.CHOICES.items():
        for name, node in options.items():
            if not (conf_dir() / group / f"{name}.yaml").exists():  # registered from Python
                store.store(group=group, name=name, node=_writable(node(name=name)))
    if "schema" in store.repo:
        return
    root = _writable(Config)
    root.optimizer = _writable(schema.Optimizer)  # not its default SGD, whose place no other optimizer could take
    store.store(group="schema", name="config", node=root)
    for group, options in schema.CHOICES.items():
        for name, node in options.items():
            store.store(group=f"schema/{group}", name=name, node=_writable(node))


def _writable(node: Any) -> DictConfig:
    """OmegaConf makes a frozen dataclass read-only, but overrides must still be able to write before `to_object`."""
    tree = OmegaConf.structured(node)

    def unlock(part: DictConfig) -> None:
        OmegaConf.set_readonly(part, None)
        for key in part:
            if isinstance(part[key], DictConfig):
                unlock(part[key])

    unlock(tree)
    return tree
