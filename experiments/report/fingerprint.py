"""Which code a measurement depends on, as a hash: stored samples are used again only where it is the same.

What is hashed is what `measure` can reach: its own source and, followed by name, whatever it uses of its package, the
whole of lab/ but for what only shows results, the scale, and the versions of the libraries. Wording, rules and pictures
of a claim are not among it, so that they can change without measuring anew.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lab
from experiments.claims.claim import Scale
from experiments.report.catalogue import Entry

SHOWS_ONLY = (
    "sinks/",
    "figures.py",
    "phase_figure.py",
    "activation_figures.py",
    "results.py",
    "summary.py",
    "files.py",
    "folder.py",
    "work.py",
    "checkpoint.py",
    "stopping.py",
    "sweeps.py",
    "netcdf.py",
    "comparison.py",
    "comparison_figure.py",
    "launchers.py",
    "cores.py",
    "output.py",
    "memory.py",
    "safety.py",
    "__main__.py",
)
"""Parts of lab/ that no number depends on."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def fingerprint(entry: Entry, scale: Scale) -> str:
    """The key of a claim's samples at a scale."""
    from lab.record.summary import versions

    reached = _Reached(entry.module)
    reached.follow(entry.claim.measure)
    parts = [json.dumps(asdict(scale)), json.dumps(versions()), _lab(), *sorted(reached.sources)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Reached:
    """The definitions that a function uses, directly and through others, of modules of its own packages."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.packages = {module.partition(".")[0], "experiments"}
        self.seen: set[tuple[str, str]] = set()
        self.sources: set[str] = set()

    def follow(self, function: Callable[..., Any]) -> None:
        """Add a function; one that is not defined at the top of a module, such as a lambda, stands for its module."""
        if isinstance(function, functools.partial):
            self.follow(function.func)
            for key, value in [*enumerate(function.args), *function.keywords.items()]:
                self.sources.add(f"{key}={_ADDRESS.sub('', repr(value))}")
                if callable(value):
                    self.follow(value)
            return
        module, name = getattr(function, "__module__", self.module), getattr(function, "__qualname__", "")
        if name in _definitions(module):
            self.add(module, name)
        else:
            self.add_all(module)
            self.add_all(self.module)

    def add(self, module: str, name: str) -> None:
        """Add one definition of a module and what it uses; with it, what the module does without defining anything."""
        if (module, name) in self.seen:
            return
        self.seen.add((module, name))
        for statement in _definitions(module).get(name, []):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self._add_import(module, statement, name)
            else:
                self._add_statement(module, statement)
        if name:
            self.add(module, "")

    def add_all(self, module: str) -> None:
        for name in list(_definitions(module)):
            self.add(module, name)

    def _add_statement(self, module: str, statement: ast.stmt) -> None:
        self.sources.add(f"{module} {ast.dump(statement)}")
        for part in ast.walk(statement):
            if isinstance(part, ast.Name):
                self.add(module, part.id)
            elif isinstance(part, ast.Import | ast.ImportFrom):
                for alias in part.names:
                    self._add_import(module, part, _bound(alias))

    def _add_import(self, module: str, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        """Follow what an import statement binds to a name."""
        for alias in statement.names:
            if _bound(alias) != name:
                continue
            if isinstance(statement, ast.Import):
                origin, part = alias.name, ""
            else:
                origin, part = _resolve(statement, module), alias.name
            self.sources.add(f"{module} {name} is {origin} {part}")
            if origin.partition(".")[0] not in self.packages:
                continue
            if part and _file(f"{origin}.{part}") is not None:
                self.add_all(f"{origin}.{part}")
            elif part in _definitions(origin):
                self.add(origin, part)
            else:
                self.add_all(origin)


@functools.cache
def _definitions(module: str) -> dict[str, list[ast.stmt]]:
    """Name -> the statements at a module's top that define it; those that define nothing are under ""."""
    path = _file(module)
    if path is None:
        return {}
    found: dict[str, list[ast.stmt]] = {}
    for statement in _statements(_parse(path)):
        for name in _names(statement) or [""]:
            found.setdefault(name, []).append(statement)
    return found


def _statements(tree: ast.Module | ast.If | ast.Try) -> Iterator[ast.stmt]:
    for statement in [*tree.body, *getattr(tree, "orelse", [])]:
        if isinstance(statement, ast.If | ast.Try):
            yield from _statements(statement)
        else:
            yield statement


def _names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [_bound(alias) for alias in statement.names]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
    return []


def _parse(path: Path) -> ast.Module:
    """A module's syntax without docstrings; comments and layout are not in it anyway."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_docstring(part)] or [ast.Pass()]
    return tree


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def instrument() -> list[Path]:
    """The modules of lab/ that numbers depend on."""
    root = Path(lab.__file__).parent
    return [path for path in sorted(root.rglob("*.py")) if not path.relative_to(root).as_posix().startswith(SHOWS_ONLY)]


@functools.cache
def _lab() -> str:
    """Hash of the instrument and of its configuration."""
    from lab.compose import conf_dir

    digest = hashlib.sha256()
    for path in instrument():
        digest.update(f"{path.name} {ast.dump(_parse(path))}\n".encode())
    for path in sorted(conf_dir().rglob("*.yaml")):
        digest.update(path.relative_to(conf_dir()).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _file(module: str) -> Path | None:
    """The source of a module, None where there is no such module."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # its parent is a module, no package
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _bound(alias: ast.alias) -> str:
    """The name that an import binds."""
    return (alias.asname or alias.name).partition(".")[0]


def _resolve(statement: ast.ImportFrom, module: str) -> str:
    """The module that a statement in another imports from, where it may be relative."""
    path = _file(module)
    package = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * statement.level + (statement.module or ""), package)
