"""Launching runs with Hydra: its command line, its launchers, and the files that it leaves in a run's folder."""

import functools
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks  # a launcher's context has no public constructor
from hydra._internal.utils import get_args_parser  # the parser of hydra.main, so that both agree on every flag
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from lab.compose import untrusted
from lab.compose.composition import compose_tree, to_config
from lab.compose.config_store import HYDRA_ERRORS, conf_dir, register
from lab.compose.errors import explain
from lab.schema import Config, ConfigError

MULTIRUN = "multirun.yaml"
SUBDIR = "hydra.sweep.subdir="

Job = Callable[[Config, Path], Any]
"""Trains one configuration into a folder. Launchers with other processes find it by its module and name."""

# Our launcher presets replace the plugins' own, which Hydra then uses as their schema, as intended.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)


def parse_flags(arguments: Sequence[str]) -> Namespace:
    """Return Hydra's flags, with the overrides as their `overrides`.

    Raises:
        ConfigError: an unknown flag, or one that replaces the configuration tree.
    """
    flags, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such flag; write key=value, or see gradlab run --hydra-help.")
    untrusted.check_flags(flags)
    return flags


def run_alone(arguments: Sequence[str], overrides: Sequence[str], job: Job) -> None:
    """Run Hydra's command line: a single run, or help, the composed configuration or shell completion.

    `arguments` are flags, then overrides; `overrides` are those of the user, for the `ConfigError` of a bad one.
    """
    sys.argv = list(arguments)
    with _hydra_errors_explained(overrides):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_task(job))()


def launcher_of(overrides: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """Return the launcher's name in `hydra/launcher`, and its settings in `hydra.launcher`."""
    tree = compose_tree(overrides).hydra
    return str(tree.runtime.choices["hydra/launcher"]), tree.launcher


def launch(jobs: Sequence[Sequence[str]], swept: Sequence[str], sweep: Path, job: Job) -> None:
    """Hand the runs of a sweep, all overrides of each, to the launcher that they choose, and wait for them.

    `swept` are the swept keys, and `sweep` is the sweep's folder; `job` should not raise.

    Raises:
        ConfigError: an error of Hydra, as one sentence.
        Exception: the launcher's own, for example of a worker that died.
    """
    common = [word for word in jobs[0] if key_of(word) not in swept and not word.startswith(SUBDIR)]
    own = [[word for word in words if word.startswith(SUBDIR) or not is_hydras(word)] for words in jobs]
    conf = str(conf_dir())
    with _hydra_errors_explained(common), hydra.initialize_config_dir(conf, version_base="1.3", job_name="run"):
        instance = GlobalHydra.instance().hydra
        assert instance is not None
        words = [*common, "hydra.mode=MULTIRUN"]
        tree = instance.compose_config("config", words, run_mode=RunMode.MULTIRUN, from_shell=False)
        OmegaConf.save(tree, sweep / MULTIRUN)
        context = HydraContext(instance.config_loader, Callbacks(tree))
        launcher = Plugins.instance().instantiate_launcher(context, _task(job), tree)
        for result in launcher.launch(own, initial_job_idx=0):
            _ = result.return_value  # raises the exception of the job, if it raised one


def save_configs(overrides: Sequence[str], number: int, folder: Path) -> None:
    """Write .hydra/ of a sweep's run into its folder, as Hydra's launchers do; `number` is its place in the sweep."""
    tree = compose_tree(overrides)
    with open_dict(tree):
        own = tree.pop("hydra")
        own.mode = RunMode.MULTIRUN
        own.overrides.hydra.insert(0, "hydra.mode=MULTIRUN")
        own.job.update({"name": "run", "id": str(number), "num": number})
        own.runtime.output_dir = str(folder.absolute())
    contents = {"config": tree, "hydra": OmegaConf.create({"hydra": own}), "overrides": own.overrides.task}
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        OmegaConf.save(content, folder / ".hydra" / f"{name}.yaml")


def quoted(text: str) -> str:
    """Return the text as a value in Hydra's override grammar."""
    return str(QuotedString(text, Quote.single).with_quotes())


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def is_hydras(override: str) -> bool:
    """Return True for an override of Hydra's own part of the configuration."""
    return key_of(override).startswith("hydra")


def _task(job: Job) -> Callable[[DictConfig], Any]:
    """Return Hydra's task function for a job; Hydra names its runs after the job's module."""
    return functools.update_wrapper(functools.partial(_run, job), job)


def _run(job: Job, tree: DictConfig) -> Any:
    return job(to_config(tree), Path(HydraConfig.get().runtime.output_dir))


@contextmanager
def _hydra_errors_explained(overrides: Sequence[str]) -> Iterator[None]:
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them and exiting
    try:
        yield
    except HYDRA_ERRORS as error:
        if isinstance(error, ConfigError) or not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        raise explain(error, overrides) from error
