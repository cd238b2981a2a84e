"""The key of a claim's samples: a hash of what can change them, so that only samples of the same code are reused.

It covers the claim's module with the modules of its package that it imports, the rooms of lab/ that compute, the
default configuration, the scale and the versions of the libraries. Words are left out: comments, docstrings, messages
of exceptions and strings that hold a space. A rule is in the claim's module: changing it measures the claim again.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import lab
from experiments.claims.claim import Scale
from experiments.report.catalogue import Entry

COMPUTES = ("schema", "readings", "theory", "network", "data", "measure", "train", "run", "record/overlay.py")
"""The parts of lab/ that a measurement runs through. Of `compose` the default configuration is hashed instead; machine,
plot, sweep and the rest of record store and show numbers but change none."""


def fingerprint(entry: Entry, scale: Scale) -> str:
    """The key of a claim's samples at a scale."""
    from lab.record.summary import versions

    measure = entry.claim.measure
    own = getattr(measure, "func", measure).__module__  # a partial has the module of functools
    sources = [_code(path) for path in sorted(_with_imports(own, set()))]
    parts = [entry.claim.id, json.dumps(asdict(scale)), json.dumps(versions()), _instrument(), *sources]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def instrument() -> list[Path]:
    """The modules of lab/ that a measurement runs through."""
    root = Path(lab.__file__).parent
    parts = [root / part for part in COMPUTES]
    return [path for part in parts for path in (sorted(part.rglob("*.py")) if part.is_dir() else [part])]


@functools.cache
def _instrument() -> str:
    from lab import compose, schema

    defaults = schema.as_dict(compose.compose(()))
    del defaults["output_dir"]  # it holds the time
    code = "\n".join([json.dumps(defaults), *map(_code, instrument())])
    return hashlib.sha256(code.encode()).hexdigest()


def _with_imports(module: str, known: set[Path]) -> set[Path]:
    """The sources of a module and of what it imports from its own package, directly or not."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or Path(spec.origin) in known:
        return known
    known.add(Path(spec.origin))
    package = module.rpartition(".")[0]
    for name in _imports(Path(spec.origin)):
        if name.rpartition(".")[0] == package:
            _with_imports(name, known)
    return known


@functools.cache
def _imports(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


class _WithoutWords(ast.NodeTransformer):
    """Removes docstrings, the arguments of raised exceptions, and strings that hold a space."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) and " " in node.value else node


@functools.cache
def _code(path: Path) -> str:
    return f"{path.stem} {ast.dump(_WithoutWords().visit(ast.parse(path.read_bytes())))}"
