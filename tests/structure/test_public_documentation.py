"""Every public name and every cost rule is documented: shapes or units in brackets, errors, and a rule's source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules, walk_packages
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

import simulator
from simulator.rules import RULES, Rule

PACKAGES = ("hardware_specs", "workloads", "simulator", "reports")
BRACKETS = re.compile(r"\[[^\]]+\]")
ERRORS = re.compile(r"\b(?:[Rr]aises?\b|\w*Error\b)")
# A signature that speaks of numbers owes the reader their units.
NUMBERS = re.compile(r"\b(?:float|int|ndarray|FloatArray|IndexArray|NDArray|Dim|Extent)\b")


def _public() -> Iterator[tuple[str, str, Any]]:
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            yield package, name, getattr(module, name)


def _is_our_class(value: Any) -> bool:
    """A class of this project; a foreign one under a public name is a value that needs an explanation."""
    return inspect.isclass(value) and value.__module__.split(".")[0] in PACKAGES


PUBLIC = list(_public())
FUNCTIONS = [pytest.param(v, id=f"{p}.{n}") for p, n, v in PUBLIC if inspect.isfunction(inspect.unwrap(v))]
CLASSES = [pytest.param(v, id=f"{p}.{n}") for p, n, v in PUBLIC if _is_our_class(v)]
VALUES = [
    pytest.param(p, n, id=f"{p}.{n}")
    for p, n, v in PUBLIC
    if not _is_our_class(v) and not inspect.isfunction(inspect.unwrap(v))
]


def _load_all_rules() -> list[Rule[..., Any]]:
    for module in walk_packages(simulator.__path__, "simulator."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    return list(RULES.values())


def _doc(thing: Any) -> str:
    """Its own docstring: one inherited from a base or made up by a dataclass does not count."""
    text = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    made_up = inspect.isclass(thing) and (text or "").startswith(f"{thing.__name__}(")
    return "" if made_up else inspect.cleandoc(text or "")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_list_of_public_names_is_real(package: str) -> None:
    """Sorted, without repeats, each name there, and no public function of the package itself left out."""
    module = import_module(package)
    names = list(module.__all__)
    assert len(names) == len(set(names))
    assert all(hasattr(module, name) for name in names)
    assert set(names) <= set(dir(module))
    if hasattr(module, "_HOMES"):
        assert sorted(names) == sorted(n for home in module._HOMES.values() for n in home)
        _type_checker_sees_the_same(module)
    else:
        imported = {
            n
            for n, v in vars(module).items()
            if not n.startswith("_") and not isinstance(v, ModuleType) and n != "annotations"
        }
        assert imported == set(names)


def _type_checker_sees_the_same(module: ModuleType) -> None:
    """Lazily loaded names are also imported under ``TYPE_CHECKING``, from the same modules."""
    shown = {
        alias.name: node.module
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES
        for alias in node.names
    }
    prefix = module.__name__
    homes = {
        name: home if "." in home else f"{prefix}.{home}"
        for home, names in module._HOMES.items()
        for name in names
    }
    assert shown == homes


@pytest.mark.parametrize("package", PACKAGES)
def test_no_lazy_name_is_that_of_a_module(package: str) -> None:
    """Importing a module puts it into its package, where it would replace the function of that name."""
    module = import_module(package)
    modules = {m.name for m in iter_modules(module.__path__)}
    lazy = set(module.__all__) if hasattr(module, "_HOMES") else set()
    assert not lazy & modules


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_say_units_and_errors(function: Any) -> None:
    text = _doc(function)
    assert text, "has no docstring"
    assert ERRORS.search(text), "does not say what it raises"
    numbers = " ".join(str(a) for a in inspect.unwrap(function).__annotations__.values())
    if NUMBERS.search(numbers):
        assert BRACKETS.search(text) or "shape" in text, "gives neither shapes nor units"


@pytest.mark.parametrize("class_", CLASSES)
def test_classes_say_units(class_: type) -> None:
    text = _doc(class_)
    assert text, "has no docstring"
    for name, member in vars(class_).items():
        function = getattr(member, "fget", None) or getattr(member, "func", None) or member
        if not name.startswith("_") and inspect.isfunction(inspect.unwrap(function)):
            assert _doc(function), f"{class_.__name__}.{name} has no docstring"
    if issubclass(class_, BaseModel):
        meanings = " ".join(f.description or "" for f in class_.model_fields.values())
        units = any(getattr(m, "name", None) for f in class_.model_fields.values() for m in f.metadata)
        numbers = any(NUMBERS.search(str(f.annotation)) for f in class_.model_fields.values())
        assert not numbers or units or BRACKETS.search(text + meanings), "gives no units"
    elif dataclasses.is_dataclass(class_):
        numbers = any(NUMBERS.search(str(f.type)) for f in dataclasses.fields(class_))
        assert not numbers or BRACKETS.search(text) or "shape" in text, "gives no units"


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return name in {t.id for t in targets if isinstance(t, ast.Name)}


@pytest.mark.parametrize(("package", "name"), VALUES)
def test_values_are_explained_where_they_stand(package: str, name: str) -> None:
    """A constant or registry has a comment above it or a text below it in the module that defines it."""
    sources = [
        inspect.getsource(module)
        for key, module in list(sys.modules.items())
        if key.split(".")[0] == package and hasattr(module, "__file__")
    ]
    explained = False
    for source in sources:
        lines, body = source.split("\n"), ast.parse(source).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.If) and _assigns(node.body[0], name):
                explained |= lines[node.lineno - 2].lstrip().startswith("#")
            if not _assigns(node, name):
                continue
            below = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            above = lines[node.lineno - 2].lstrip().startswith("#")
            explained |= below or above
    assert explained


def test_there_are_rules() -> None:
    assert len(_load_all_rules()) > 20


@pytest.mark.parametrize("rule", [pytest.param(r, id=r.name) for r in _load_all_rules()])
def test_rules_say_units_errors_and_source(rule: Rule[..., Any]) -> None:
    text = _doc(rule.function)
    assert BRACKETS.search(text), "gives no units in brackets"
    assert ERRORS.search(text), "does not say what it raises"
    assert len(rule.source) > 8
    assert rule.unit in ("s", "B", "FLOP", "FLOP/s", "B/s", "J", "W", "1", "token/s", "USD")
    parameters = inspect.signature(rule.function).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters), "a record names its inputs: keywords only"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_about(package: str) -> None:
    for module in walk_packages(import_module(package).__path__, f"{package}."):
        if not module.name.endswith("__main__"):
            assert import_module(module.name).__doc__, module.name
