"""What Python source says of itself, read without importing it: docstrings, base classes, values of classes, fields.

A list of methods must start at once and must not run the code of packages that it only names.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Node = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Definition:
    """A class or function at the top level of a module."""

    module: str
    node: Node

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of a function's arguments; none of a class."""
        if isinstance(self.node, ast.ClassDef):
            return ()
        return tuple(a.arg for a in (*self.node.args.posonlyargs, *self.node.args.args, *self.node.args.kwonlyargs))

    def bases(self) -> Iterator[Definition]:
        """The base classes whose source is found."""
        for base in self.node.bases if isinstance(self.node, ast.ClassDef) else ():
            if isinstance(base, ast.Name) and (found := definition(self.module, base.id)):
                yield found

    def lineage(self) -> Iterator[Definition]:
        """The class itself, then its bases, depth first."""
        yield self
        for base in self.bases():
            yield from base.lineage()

    def own(self, name: str) -> ast.expr | None:
        """What the class itself assigns to a name."""
        found = _first(self.node.body, name)
        return None if found is None else _meant(self.module, found)

    def value(self, name: str) -> tuple[str, ast.expr] | None:
        """What a class or its nearest base assigns to a name: the module that says so, and the expression."""
        for each in self.lineage():
            if (found := each.own(name)) is not None:
                return each.module, found
        return None

    def text(self, name: str) -> str:
        """A value that is text, empty where there is none."""
        found = self.value(name)
        return found[1].value if found and isinstance(found[1], ast.Constant) and isinstance(found[1].value, str) \
            else ""

    def fields(self) -> Iterator[tuple[str, str, ast.expr | None]]:
        """(name, declared type as text, default) of each field of a dataclass."""
        for statement in self.node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                declared = ast.unparse(statement.annotation)
                if not declared.startswith("ClassVar"):
                    yield statement.target.id, declared, statement.value


def _first(body: list[ast.stmt], name: str) -> ast.expr | None:
    return next((found for statement in body if (found := _assigned(statement, name)) is not None), None)


def _meant(module: str, expression: ast.expr) -> ast.expr:
    """A constant of the module in place of its name."""
    tree = parsed(module)
    named = _first(tree.body, expression.id) if tree and isinstance(expression, ast.Name) else None
    return expression if named is None else named


def _assigned(statement: ast.stmt, name: str) -> ast.expr | None:
    targets = statement.targets if isinstance(statement, ast.Assign) else \
        [statement.target] if isinstance(statement, ast.AnnAssign) else []
    named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
    return statement.value if named and isinstance(statement, ast.Assign | ast.AnnAssign) else None


@functools.cache
def locate(module: str) -> Path | None:
    """The file of a module, found from its first package on, none of which is imported."""
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = [Path(place).joinpath(*rest) for place in spec.submodule_search_locations or ()]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")] if rest else \
        [Path(spec.origin or "")]
    return next((file for file in files if file.suffix == ".py" and file.is_file()), None)


@functools.cache
def parsed(module: str) -> ast.Module | None:
    """The syntax tree of a module, or None where there is no source that can be read."""
    file = locate(module)
    try:
        return ast.parse(file.read_text(encoding="utf-8")) if file else None
    except (OSError, ValueError, SyntaxError):
        return None


def docstring(module: str) -> str:
    """Of a module; empty where it has none or no source."""
    tree = parsed(module)
    return (ast.get_docstring(tree) or "") if tree else ""


def definitions(module: str) -> Iterator[Definition]:
    """The public classes and functions that a module defines."""
    tree = parsed(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield Definition(module, node)


@functools.cache
def definition(module: str, name: str) -> Definition | None:
    """What a name stands for in a module: defined there, or imported, be it for type checkers only."""
    tree = parsed(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Definition(module, node)
    for statement in ast.walk(tree) if tree else ():
        if isinstance(statement, ast.ImportFrom) and statement.module not in (None, module) and not statement.level:
            for alias in statement.names:
                if name == (alias.asname or alias.name):
                    return definition(str(statement.module), alias.name)
    return None
