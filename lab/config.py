"""From files and overrides to one frozen `Config`. Hydra and OmegaConf end here: no module below imports them."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra import version as hydra_version
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString, RangeSweep
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from lab import safety, schema
from lab.schema import Config, ConfigError

HYDRA_ERRORS = (HydraException, OmegaConfBaseException, ValueError, OverflowError)
"""What composing raises on bad input; the plain ones come from the insides of Hydra and OmegaConf."""

HOME = re.compile(r"""(\+{0,2}output_dir=)(['"]?)(~[^'",]*)\2""")
"""An output folder that begins with the home folder."""


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that these overrides make, checked.

    Raises:
        ConfigError: an override that cannot be read, a wrong name, type or range, or choices that exclude each other.
    """
    return to_config(compose_tree(overrides))


def compose_job(overrides: Sequence[str], number: int | None = None) -> tuple[Config, Path]:
    """The configuration of a run and the folder that Hydra will make for it; `number` is its place in a sweep.

    Raises:
        ConfigError: as `compose`.
    """
    is_swept = number is not None
    tree = compose_tree([*overrides, f"hydra.job.num={number}"] if is_swept else overrides, with_hydra=True)
    try:
        if is_swept:
            safety.check_run_folder(tree.hydra.sweep.subdir)
        folder = Path(tree.hydra.sweep.dir, tree.hydra.sweep.subdir) if is_swept else Path(tree.hydra.run.dir)
    except ConfigError:
        raise
    except HYDRA_ERRORS as error:
        raise explain(error, overrides) from error
    with open_dict(tree):
        del tree["hydra"]
    return to_config(tree), folder


def with_numbers(config: Config, overrides: Sequence[str]) -> Config | None:
    """The configuration with other numbers, checked, without asking Hydra; None if one of them is no plain number.

    Args:
        overrides: of keys that hold a number.

    Raises:
        ConfigError: as `check`, or an override that cannot be read.
    """
    for override in parse(overrides):
        *groups, name = override.key_or_group.split(".")
        owners: list[Any] = [config]
        for group in groups:
            owners.append(getattr(owners[-1], group))
        kind, value = type(getattr(owners[-1], name)), override.value()
        if type(value) is not kind and not (kind is float and type(value) is int and abs(value) <= schema.LARGEST):
            return None
        changed = replace(owners.pop(), **{name: kind(value)})
        for group, owner in zip(reversed(groups), reversed(owners), strict=True):
            changed = replace(owner, **{group: changed})
        config = changed
    return check(config)


def compose_tree(overrides: Sequence[str], with_hydra: bool = False) -> DictConfig:
    """The composed tree before it becomes a `Config`; `with_hydra` keeps Hydra's own part (folders, job name)."""
    register()
    overrides = expand_home(overrides)
    try:
        tree = _compose(overrides)
        own = _own_hydra(str(tree.hydra.runtime.choices["hydra/launcher"]))
        plain = _plain(tree)
        safety.check_hydra({"hydra": plain.pop("hydra")}, {"hydra": own})
        safety.check_values(plain)
    except ConfigError:
        raise
    except (*HYDRA_ERRORS, OSError) as error:  # an option's name is looked for as a file's, which may be too long
        raise explain(error, overrides) from error
    if not with_hydra:
        with open_dict(tree):
            del tree["hydra"]
    return tree


def expand_home(overrides: Sequence[str]) -> list[str]:
    """The overrides with the home folder in place of the ~ that output_dir begins with; a shell may leave it there.

    Raises:
        ConfigError: one that cannot be read, or may not be given.
    """
    expanded = []
    for text in overrides:
        if found := HOME.fullmatch(text):
            text = found[1] + QuotedString(os.path.expanduser(found[3]), Quote.single).with_quotes()
        expanded.append(text)
    parse(expanded)
    return expanded


def to_config(tree: DictConfig) -> Config:
    """The frozen dataclasses of a composed tree, checked."""
    try:
        for key in _unknown_keys(tree, Config):
            raise ConfigError(_no_such_key(key, _owner(tree, key)))
        config = OmegaConf.to_object(tree)
    except ConfigError:
        raise
    except HYDRA_ERRORS as error:
        raise explain(error, ()) from error
    assert isinstance(config, Config)
    return check(config)


def check(config: Config) -> Config:
    """The configuration itself, if it makes sense.

    Raises:
        ConfigError: a value out of range, choices that exclude each other, or init=critical where nothing is critical.
    """
    schema.check(config)
    if isinstance(config.init, schema.Critical):
        from lab.theory import critical_weight_var_of  # NumPy is imported only where there is something to solve

        critical_weight_var_of(config)  # refuses where there is no critical point
    return config


def from_dict(values: dict[str, Any]) -> Config:
    """The `Config` that `as_dict` was made from."""
    parts: dict[str, Any] = {}
    for name, hint in get_type_hints(Config).items():
        value = values[name]
        if name in schema.CHOICES:
            value = schema.CHOICES[name][value["name"]](**value)
        elif is_dataclass(hint):
            value = hint(**value)  # type: ignore[operator]  # is_dataclass narrows to an instance, and this is the class
        parts[name] = value
    return Config(**parts)


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain nested dictionaries, fit for JSON."""
    return asdict(config)


def fingerprint(config: Config) -> str:
    """A hash of all that decides the result: equal for two runs that must agree, whatever their folder or device."""
    return hashlib.sha256(json.dumps(schema.flatten(asdict(config)), sort_keys=True).encode()).hexdigest()[:16]


def parse(overrides: Sequence[str]) -> list[Override]:
    """Read overrides by Hydra's grammar.

    Raises:
        ConfigError: one that cannot be read, or may not be given.
    """
    parsed = []
    for text in overrides:
        safety.check_text(text)
        try:
            [override] = OverridesParser.create().parse_overrides([text])
            if not override.key_or_group:
                raise ValueError("It has no key.")
        except HYDRA_ERRORS as error:
            raise ConfigError(
                f"{text}: this override cannot be read; write key=value, with quotes around a value that holds spaces,"
                " brackets or an equals sign."
            ) from error
        key = override.get_key_element().lstrip("+~")
        safety.check_override(text, key, override._value, override.is_delete())
        parsed.append(override)
    return parsed


def jobs_of_sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Every combination of the swept values, in the order in which Hydra's sweeper runs them.

    Raises:
        ConfigError: an override that cannot be read or swept over, or more runs than anybody waits for.
    """
    alternatives = []
    for override in parse(overrides):
        if override.is_sweep_override():
            alternatives.append([f"{override.get_key_element()}={value}" for value in _swept_values(override)])
        else:
            alternatives.append([override.input_line or ""])
        safety.runs_of([len(values) for values in alternatives])
    return [list(job) for job in itertools.product(*alternatives)]


def _swept_values(override: Override) -> list[str]:
    value = override.value()
    if not override.is_discrete_sweep() or isinstance(value, Glob):
        raise ConfigError(f"{override.input_line}: only choices and ranges can be swept; list the values instead.")
    try:
        if isinstance(value, RangeSweep):  # counted first: it may be endless, and a shuffled one is held whole
            safety.runs_of([sum(1 for _ in itertools.islice(value.range(), safety.MOST_RUNS + 1))])
        found = list(override.sweep_string_iterator())
    except ConfigError:
        raise
    except (*HYDRA_ERRORS, ArithmeticError) as error:
        raise ConfigError(f"{override.input_line}: these values cannot be listed; list them yourself.") from error
    if not found:
        raise ConfigError(f"{override.input_line}: there is no value in it; give at least one.")
    return found


def swept_keys(overrides: Sequence[str]) -> list[str]:
    """The keys that these overrides give several values to."""
    return [override.key_or_group for override in parse(overrides) if override.is_sweep_override()]


def conf_dir() -> Path:
    """The config tree: inside the package when installed from a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "conf"


def _compose(overrides: Sequence[str]) -> DictConfig:
    with _hydra():
        return hydra_compose("config", overrides=list(overrides), return_hydra_config=True)


@functools.cache
def _own_hydra(launcher: str) -> dict[str, Any]:
    """Hydra's own part as conf/ has it, with nothing resolved in it."""
    safety.check_override(f"hydra/launcher={launcher}", "hydra/launcher", launcher, is_deletion=False)
    return _plain(_compose([f"hydra/launcher={launcher}"]).hydra)


def _plain(tree: DictConfig) -> dict[str, Any]:
    """Dictionaries and lists with nothing resolved in them."""
    plain = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


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
            BaseContainer._resolvers = {name: known[name] for name in safety.RESOLVERS}
            yield
    finally:
        BaseContainer._resolvers = resolvers
        GlobalHydra.instance().hydra, base.version_base, runtime.conf = host, version, names


def register() -> None:
    """Make the schema classes known to Hydra under schema/; calling it again changes nothing."""
    store = ConfigStore.instance()
    if "schema" in store.repo:
        return
    root = _writable(Config)
    root.optimizer = _writable(schema.Optimizer)  # not its default SGD, whose place no other optimizer could take
    store.store(group="schema", name="config", node=root)
    for group, options in schema.CHOICES.items():
        for name, node in options.items():
            store.store(group=f"schema/{group}", name=name, node=_writable(node))


def _writable(node: type) -> DictConfig:
    """OmegaConf makes a frozen dataclass read-only, but overrides must still be able to write before `to_object`."""
    tree = OmegaConf.structured(node)

    def unlock(part: DictConfig) -> None:
        OmegaConf.set_readonly(part, None)
        for key in part:
            if isinstance(part[key], DictConfig):
                unlock(part[key])

    unlock(tree)
    return tree


# --- what went wrong, in one sentence -------------------------------------------------------------------------------


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


def _unknown_keys(tree: DictConfig, owner: type, prefix: str = "") -> Iterator[str]:
    """Keys that were added to a tree (with + or ++) and that its dataclass does not have."""
    for key in tree:
        if key not in _names(owner):
            yield f"{prefix}{key!s}"
        elif isinstance(tree[key], DictConfig):
            yield from _unknown_keys(tree[key], OmegaConf.get_type(tree[key]) or Config, f"{prefix}{key}.")


def _owner(tree: DictConfig, key: str) -> type:
    parent = key.rpartition(".")[0]
    return (OmegaConf.get_type(OmegaConf.select(tree, parent)) if parent else None) or Config


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
