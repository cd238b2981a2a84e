"""One sentence for each error that Hydra or OmegaConf raises."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from lab import schema
from lab.compose.config_store import HYDRA_ERRORS, compose_with_hydra
from lab.schema import Config, ConfigError, did_you_mean

WANTED = {"to Integer": "a whole number", "to Float": "a number", "valid bool": "true or false", "to string": "a text"}
"""Words of OmegaConf's messages -> the type of value that it asks for."""


@contextmanager
def explaining(overrides: Sequence[str]) -> Iterator[None]:
    """Raise what Hydra and OmegaConf raise within the block as a `ConfigError`."""
    try:
        yield
    except ConfigError:
        raise
    except (*HYDRA_ERRORS, OSError) as error:  # an option's name is looked up as a file name, which may be too long
        raise explain(error, overrides) from error


def explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Turn an error of Hydra or OmegaConf into one sentence that names the key and the remedy."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(f"{group}={name}: there is no such option; {did_you_mean(name, error.options or [])}.")
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            file = str(error).partition("In 'experiment/")[2].partition("'")[0]
            return ConfigError((f"experiment={file}, " if file else "") + _explain_key(cause, overrides))
    return ConfigError(_explain_override(str(error), overrides))


def no_such_key(key: str, owner: type | Any) -> str:
    """Return the sentence on a key that `owner`, the dataclass of the part before its last dot, does not have."""
    if key == "sweep" or key.startswith("sweep."):
        return "sweep.batch: it has become a launcher; choose hydra/launcher=replicas instead."
    parent, _, name = key.rpartition(".")
    choices = [f"{parent}={x}" for x, node in schema.CHOICES.get(parent, {}).items() if name in _names(node)]
    if choices:
        return f"{key}: the chosen {parent} has no {name}; choose {' or '.join(choices)}, or leave {name} out."
    keys = [f"{parent}.{other}".lstrip(".") for other in _names(owner) if not (parent and other == "name")]
    if not keys:
        return f"{key}: the chosen {parent} has no options; leave {name} out or choose another {parent}."
    return f"{key}: there is no such key; {did_you_mean(key, keys)}."


def _explain_key(cause: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    key, message = str(cause.full_key), _first_line(str(cause))
    override = next((text for text in overrides if text.lstrip("+").partition("=")[0] == key), key)
    if "Unsupported interpolation type" in message:  # only a list of defaults comes so far
        return "defaults: ${...} in a file may point to a key, but not call anything; write the option's name."
    if key.startswith("hydra"):
        return f"{override}: {message}; see the files in conf/hydra."
    if "not in" in message and message.startswith("Key"):
        return no_such_key(key, cause.object_type if is_dataclass(cause.object_type) else Config)
    for words, meaning in WANTED.items():
        if words in message:
            return f"{override}: give {meaning}."
    if "not Optional" in message:
        return f"{override}: null has no meaning here; give a value."
    if "subclass" in message and key in schema.CHOICES:
        return f"{override}: choose one of {', '.join(schema.CHOICES[key])}."
    if "subclass" in message:
        return f"{override}: {key} has keys of its own; give {key}.KEY=VALUE."
    return f"{override}: {message}; give a plain value."


def _explain_override(message: str, overrides: Sequence[str]) -> str:
    """Explain an error that names no key."""
    quoted = message.partition("'")[2].partition("'")[0]
    if "Ambiguous value" in message or "requires --multirun" in message:
        return f"{quoted}: several values are a sweep; add -m, or give one value."
    if "No match in the defaults list" in message:
        if quoted == "experiment":
            return "experiment: no experiment is chosen yet that could be exchanged; write +experiment=NAME."
        return f"{quoted}: there is no such group; {did_you_mean(quoted, list(schema.CHOICES))}."
    culprit = next((text for text in overrides if _fails(text)), " ".join(overrides) or "conf/config.yaml")
    key = culprit.lstrip("+").partition("=")[0]
    if "Config group override must be" in message:
        return f"{culprit}: choose one of {', '.join(schema.CHOICES.get(key, ['the names of its files']))}."
    if any(words in message for words in ("already at", "Multiple values for", "force-add")):
        return f"{culprit}: {key} has a value already; leave out the plus sign."
    return f"{culprit}: this cannot be used ({_first_line(message)}); give another value."


def _fails(override: str) -> bool:
    try:
        compose_with_hydra([override])
    except (*HYDRA_ERRORS, OSError):
        return True
    return False


def _names(node: type | Any) -> list[str]:
    return [part.name for part in fields(node)]


def _first_line(message: str) -> str:
    return next((line.strip().rstrip(".") for line in message.splitlines() if line.strip()), "no reason given")
