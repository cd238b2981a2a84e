"""One sentence for each error that Hydra or OmegaConf raises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from lab import schema
from lab.compose.config_store import HYDRA_ERRORS, _compose
from lab.schema import Config, ConfigError


def explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Turn what Hydra or OmegaConf raised into one sentence that names the key and says what to do."""
    causes = [x for x in (error, error.__cause__, error.__context__) if isinstance(x, OmegaConfBaseException)]
    cause = next((cause for cause in causes if cause.full_key), None)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = [option for option in error.options or [] if not option.startswith("schema")]
        return ConfigError(f"{group}={name}: there is no such option; {_advice(name, options)}.")
    if cause:
        file = str(error).partition("In 'experiment/")[2].partition("'")[0]
        where = f"experiment={file}, " if file else ""
        return ConfigError(where + _explain_key(cause, overrides))
    return ConfigError(_explain_override(str(error), overrides))


def _explain_override(message: str, overrides: Sequence[str]) -> str:
    quoted = message.partition("'")[2].partition("'")[0]
    if "Ambiguous value" in message or "requires --multirun" in message:
        return f"{quoted}: several values are a sweep; add -m, or give one value."
    if "No match in the defaults list" in message:
        if quoted == "experiment":
            return "experiment: no experiment is chosen yet that could be exchanged; write +experiment=NAME."
        return f"{quoted}: there is no such group; {_advice(quoted, list(schema.CHOICES))}."
    culprit = _culprit(overrides)
    key = culprit.lstrip("+").partition("=")[0]
    if "Config group override must be" in message:
        return f"{culprit}: choose one of {', '.join(schema.CHOICES.get(key, ['the names of its files']))}."
    if any(words in message for words in ("already at", "Multiple values for", "force-add")):
        return f"{culprit}: {key} has a value already; leave out the plus sign."
    return f"{culprit}: this cannot be used ({_first_line(message).rstrip('.')}); give another value."


def _explain_key(cause: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    key, message = str(cause.full_key), _first_line(str(cause))
    given = next((text for text in overrides if text.lstrip("+").partition("=")[0] == key), key)
    if "Unsupported interpolation type" in message:  # only a list of defaults comes so far
        return "defaults: ${...} in a file may point to a key, but not call anything; write the option's name."
    if key.startswith("hydra"):
        return f"{given}: {message.rstrip('.')}; see the files in conf/hydra."
    if "not in" in message and message.startswith("Key"):
        return _no_such_key(key, cause.object_type if is_dataclass(cause.object_type) else Config)
    wanted = {
        "to Integer": "a whole number",
        "to Float": "a number",
        "valid bool": "true or false",
        "to string": "a text",
    }
    for words, meaning in wanted.items():
        if words in message:
            return f"{given}: give {meaning}."
    if "not Optional" in message:
        return f"{given}: null has no meaning here; give a value."
    if "subclass" in message:
        if key in schema.CHOICES:
            return f"{given}: choose one of {', '.join(schema.CHOICES[key])}."
        return f"{given}: {key} has keys of its own; give {key}.KEY=VALUE."
    return f"{given}: {message.rstrip('.')}; give a plain value."


def _no_such_key(key: str, owner: type | Any) -> str:
    """The sentence on a key that `owner`, the class of what stands before its last dot, does not have."""
    parent, _, name = key.rpartition(".")
    keys = [f"{parent}.{part.name}".lstrip(".") for part in fields(owner) if not (parent and part.name == "name")]
    having = [option for option, node in schema.CHOICES.get(parent, {}).items() if name in _names(node)]
    if having:
        choices = " or ".join(f"{parent}={option}" for option in having)
        return f"{key}: the chosen {parent} has no {name}; choose {choices}, or leave {name} out."
    if not keys:
        return f"{key}: the chosen {parent} has no options; leave {name} out or choose another {parent}."
    return f"{key}: there is no such key; {_advice(key, keys)}."


def _names(node: type | Any) -> set[str]:
    return {part.name for part in fields(node)}


def _advice(name: str, options: Sequence[str]) -> str:
    if not options:
        return "leave it out"
    near = get_close_matches(name.lower(), options, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return (
        f"{hint}choose one of {', '.join(options)}" if len(options) > 1 else f"{hint}there is only {', '.join(options)}"
    )


def _culprit(overrides: Sequence[str]) -> str:
    """The override that fails on its own, if one does."""
    for text in overrides:
        try:
            _compose([text])
        except (*HYDRA_ERRORS, OSError):
            return text
    return " ".join(overrides) or "conf/config.yaml"


def _first_line(message: str) -> str:
    return next((line.strip() for line in message.splitlines() if line.strip()), "no reason given")
