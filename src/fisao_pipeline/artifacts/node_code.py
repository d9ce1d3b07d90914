"""The code behind a node: a hash of each module of the package that its function's module imports, all the way down."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fisao_pipeline.artifacts.file_memory import FileMemory, sha256

PACKAGE = "fisao_pipeline"
# Files beside modules that these read: vocabularies, templates, style sheets.
_DATA_SUFFIXES = frozenset({".txt", ".json", ".jinja", ".css"})
_DIGITS = 16
# Fields of syntax trees that hold statements, and what is made of statements.
_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
# What a module is besides what it computes; the release is recorded, and tells nothing of a single stage.
_NOT_CODE = frozenset({"__version__", "__all__"})


class NodeCode:
    """Hashes of the modules behind functions.

    A module counts by its syntax tree without docstrings: comments, docstrings and layout may change, a constant may
    not. Modules are followed through the import statements in them, those inside functions included, those for type
    checkers alone left out; the files with data beside a module count by their bytes. Other packages are told by their
    versions, which are recorded and do not count.
    """

    def __init__(self, memory: FileMemory | None, packages: Iterable[str]) -> None:
        """Name the packages whose code counts.

        Args:
            memory: Of what was found in files; None reads them all, a third of a second for a training.
            packages: Imported packages by name.
        """
        self._memory, self._roots = memory, _roots(packages)
        self._of_module: dict[str, dict[str, str]] = {}

    def of(self, things: Iterable[Callable[..., Any]]) -> dict[str, str]:
        """Hashes by file (`fisao_pipeline/models/policy.py`) of the modules of things, and of what these import."""
        found: dict[str, str] = {}
        for thing in things:
            found |= self._behind(_plain(thing).__module__)
        return dict(sorted(found.items()))

    def _behind(self, module: str) -> dict[str, str]:
        if module not in self._of_module:
            self._of_module[module] = self._walk(module, self._roots)
        return self._of_module[module]

    def _walk(self, module: str, roots: dict[str, Path]) -> dict[str, str]:
        hashes: dict[str, str] = {}
        waiting, seen = [module], set()
        while waiting:
            name = waiting.pop()
            file = _file(name, roots)
            if file is None or name in seen:
                continue
            seen.add(name)
            about = json.loads(self._memory.of("code-1", file, _read_module) if self._memory else _read_module(file))
            place = file.relative_to(roots[name.partition(".")[0]].parent)
            hashes[place.as_posix()] = about["hash"]
            for data in _data_beside(file):
                digest = self._memory.sha256(data) if self._memory else sha256(data)
                hashes[(place.parent / data.name).as_posix()] = digest[:_DIGITS]
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            waiting += _imported(about["imports"], package, roots)
        return hashes


@functools.cache
def code_digest(function: Callable[..., Any]) -> str:
    """Hexadecimal digits that tell the code behind a function, of its own package, from any other code."""
    hashes = NodeCode(None, {function.__module__.partition(".")[0]}).of([function])
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:_DIGITS]


def _plain(function: Any) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _roots(packages: Iterable[str]) -> dict[str, Path]:
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in packages}
    return {name: Path(file).parent for name, file in files.items() if file and Path(file).name == "__init__.py"}


def _file(module: str, roots: dict[str, Path]) -> Path | None:
    """The source of a module of one of the packages; None where it has none (a folder without `__init__.py`)."""
    root, *parts = module.split(".")
    if root not in roots:
        return None
    base = roots[root].joinpath(*parts)
    candidates = [base / "__init__.py"] + ([base.with_suffix(".py")] if parts else [])
    return next((file for file in candidates if file.is_file()), None)


def _data_beside(file: Path) -> list[Path]:
    return sorted(path for path in file.parent.iterdir() if path.suffix in _DATA_SUFFIXES)


def _imported(statements: list[list[Any]], package: str, roots: dict[str, Path]) -> Iterator[str]:
    """Names of modules that import statements name: a package counts itself only for what is defined in it."""
    for level, module, names in statements:
        base = module
        if level:
            above = package.split(".")
            base = ".".join([*above[: len(above) - level + 1], *([module] if module else [])])
        submodules = [f"{base}.{name}" for name in names if _file(f"{base}.{name}", roots) is not None]
        yield from submodules
        if len(submodules) < len(names) or not names:
            yield base


def _read_module(file: Path) -> str:
    tree = ast.parse(file.read_bytes())
    imports = list(_import_statements(tree))
    parts: list[str] = []
    _spell(_without_docstrings(tree), parts)
    digest = hashlib.sha256("".join(parts).encode(errors="backslashreplace"))
    return json.dumps({"hash": digest.hexdigest()[:_DIGITS], "imports": imports})


def _import_statements(tree: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    """(level, module, names) of each import statement; no names for `import module`."""
    for child in _statements(tree):
        if isinstance(child, ast.Import):
            yield from ((0, alias.name, []) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield child.level, child.module or "", [alias.name for alias in child.names]
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _import_statements(ast.Module(child.orelse, []))
        else:
            yield from _import_statements(child)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """What is in the blocks of a module or a statement, not below; expressions, most of a tree, hold no statements."""
    for name in _BLOCKS:
        yield from getattr(tree, name, ())


def _without_docstrings(tree: ast.AST) -> ast.AST:
    body = getattr(tree, "body", None)
    if isinstance(body, list):
        tree.body = [statement for statement in body if not _is_remark(statement)]  # type: ignore[attr-defined]
    for child in _statements(tree):
        _without_docstrings(child)
    return tree


def _is_remark(statement: ast.stmt) -> bool:
    """A text that nobody takes, as docstrings are, or an assignment that says something about the module."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    if not isinstance(statement, ast.Assign):
        return False
    return all(isinstance(target, ast.Name) and target.id in _NOT_CODE for target in statement.targets)


def _spell(value: Any, parts: list[str]) -> None:
    """Append a syntax tree as text. `ast.dump` spells the same tree differently from one Python to the next."""
    if isinstance(value, ast.AST):
        parts.append(f"({type(value).__name__}")
        for name, child in ast.iter_fields(value):
            if child is not None and child != [] and name not in ("kind", "type_comment"):
                parts.append(f" {name}=")
                _spell(child, parts)
        parts.append(")")
    elif isinstance(value, list):
        parts.append("[")
        for child in value:
            _spell(child, parts)
            parts.append(",")
        parts.append("]")
    else:
        parts.append(repr(value))
