"""Imports run one way: hardware_specs and workloads, then simulator; reports stand alone; one file joins them.

Every import statement is read, also those inside functions and under ``TYPE_CHECKING``; relative imports and
``importlib.import_module("...")`` with a literal name count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("hardware_specs", "workloads", "simulator", "reports")
# One error tree and one strict reader serve both kinds of description (docs/decisions.md).
SHARED_WITH_WORKLOADS = {"hardware_specs.errors", "hardware_specs.strict_yaml"}
# Parts of the simulator that are tools around the engine: they read tables and files.
EDGES = (
    "simulator.cli",
    "simulator.commands",
    "simulator.fitting",
    "simulator.measured_tables",
    "simulator.measuring",
    "simulator.validation",
)
HEAVY = {"pandas", "matplotlib", "scipy", "pyarrow", "rich", "torch", "typer"}


@dataclass(frozen=True)
class Import:
    """One imported module, where, and whether it is loaded with the file that holds it."""

    importer: str
    imported: str
    line: int
    at_load: bool


def _module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(p): p for package in PACKAGES for p in sorted((REPOSITORY / package).rglob("*.py"))}


def _absolute(node: ast.ImportFrom, importer: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = importer.split(".")
    parents = parts[: len(parts) - node.level + is_package]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _named(node: ast.AST, importer: str, is_package: bool) -> Iterator[str]:
    """Modules that one node imports; ``from package import module`` gives the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, importer, is_package)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in MODULES else base
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = ast.unparse(node.func)
        if called.endswith("import_module") or called == "__import__":
            yield str(node.args[0].value)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(source: str, importer: str, is_package: bool = False) -> list[Import]:
    """Every import in a source text."""
    found: list[Import] = []

    def walk(node: ast.AST, at_load: bool) -> None:
        for name in _named(node, importer, is_package):
            found.append(Import(importer, name, getattr(node, "lineno", 0), at_load))
        inner = at_load and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            in_body = isinstance(node, ast.If) and child in node.body
            walk(child, inner and not (_is_type_checking(node) and in_body))

    walk(ast.parse(source), True)
    return found


IMPORTS = [
    found
    for name, path in MODULES.items()
    for found in imports_of(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")
]


def _below(module: str, *parents: str) -> bool:
    return any(module == parent or module.startswith(f"{parent}.") for parent in parents)


def _shown(imports: list[Import]) -> str:
    return "\n".join(f"{i.importer}:{i.line} imports {i.imported}" for i in imports)


def _ours(importer: str) -> list[Import]:
    """Imports that a package makes of the other three."""
    others = [p for p in PACKAGES if p != importer]
    return [i for i in IMPORTS if _below(i.importer, importer) and _below(i.imported, *others)]


@pytest.mark.parametrize("package", ["hardware_specs", "reports"])
def test_it_imports_none_of_ours(package: str) -> None:
    assert not _ours(package), _shown(_ours(package))


def test_workloads_import_only_the_errors_and_the_strict_reader() -> None:
    wrong = [i for i in _ours("workloads") if i.imported not in SHARED_WITH_WORKLOADS]
    assert not wrong, _shown(wrong)


def test_only_the_command_line_joins_simulator_and_reports() -> None:
    wrong = [
        i
        for i in _ours("simulator")
        if _below(i.imported, "reports") and not _below(i.importer, "simulator.cli", "simulator.commands")
    ]
    assert not wrong, _shown(wrong)


def test_only_the_command_line_knows_the_command_line() -> None:
    wrong = [
        i
        for i in IMPORTS
        if _below(i.imported, "simulator.cli", "simulator.commands")
        and not _below(i.importer, "simulator.cli", "simulator.commands")
    ]
    assert not wrong, _shown(wrong)


def _reached(start: str, *, at_load_only: bool) -> set[str]:
    """Our modules that importing (or calling into) one module can load."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module in seen or module not in MODULES:
            continue
        seen.add(module)
        todo += [i.imported for i in IMPORTS if i.importer == module and (i.at_load or not at_load_only)]
    return seen


def test_replays_never_feed_an_estimate() -> None:
    """Replays check and draw: neither one estimate nor a sweep nor a search can reach one."""
    for start in (
        "simulator.estimates.estimate",
        "simulator.sweeps.sweeping",
        "simulator.searching.plan_search",
    ):
        assert start in MODULES
        replays = {m for m in _reached(start, at_load_only=False) if "replay" in m.rsplit(".", 1)[-1]}
        assert not replays, f"{start} reaches {replays}"


def test_the_engine_loads_without_pandas_and_plots() -> None:
    """Cost rules know arrays only; frames appear inside the functions at the edges that make them."""
    wrong = [
        i
        for i in IMPORTS
        if _below(i.importer, "simulator", "workloads", "hardware_specs")
        and not _below(i.importer, *EDGES)
        and i.at_load
        and i.imported.split(".")[0] in HEAVY
    ]
    assert not wrong, _shown(wrong)


def test_counting_sees_no_rate() -> None:
    """Counts come from shapes: the counting rules cannot reach a device, a fabric or a catalog of machines."""
    reached = _reached("simulator.kernels.counting", at_load_only=False)
    rates = {
        "simulator.machines.device",
        "simulator.kernels.models",
        "simulator.communication.collective_time",
        "hardware_specs.schema",
    }
    assert not reached & rates


def test_no_import_goes_in_a_circle() -> None:
    """Loading any module never comes back to it."""
    for name in MODULES:
        direct = {i.imported for i in IMPORTS if i.importer == name and i.at_load} & MODULES.keys()
        circle = [d for d in direct - {name} if name in _reached(d, at_load_only=True)]
        # A package's __init__ lists its modules; modules never import it back by its bare name.
        assert not circle, f"{name} and {circle} import each other"


# The rooms of the simulator, from the ground up: each may use those before it.
ROOMS = (
    ("rules",),
    ("arrays", "scenarios"),
    ("kernels", "communication", "pipelines"),
    ("certainty",),
    ("machines",),
    ("per_device",),
    ("legality",),
    ("spaces",),
    ("composition",),
    ("estimates",),
    ("sweeps",),
    ("searching", "network"),
    ("measured_tables", "measuring"),
    ("fitting",),
    ("validation",),
    ("commands", "cli"),
)
# Bandwidths of a node that is declared wire by wire come from its links played out.
BELOW_ITS_ROOM = {("simulator.machines.fabric", "simulator.network.wired_node")}


def test_the_rooms_of_the_simulator_use_those_below_them() -> None:
    """A change of composition cannot reach how a scenario is read, and so on; neighbours may use each other."""
    floor = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}
    found = {m.split(".")[1] for m in MODULES if m.startswith("simulator.")}
    assert found == floor.keys(), "every room has its place in ROOMS"
    wrong = [
        i
        for i in IMPORTS
        if i.importer.startswith("simulator.")
        and i.imported.startswith("simulator.")
        and i.imported in MODULES
        and floor[i.importer.split(".")[1]] < floor[i.imported.split(".")[1]]
        and (i.importer, i.imported) not in BELOW_ITS_ROOM
    ]
    assert not wrong, _shown(wrong)


def test_the_reader_of_imports_sees_every_form() -> None:
    """The test itself: each way to import is found, and told apart by when it is loaded."""
    source = """
import reports.canvas
from simulator import rules
from . import commands
if TYPE_CHECKING:
    import pandas as pd
def late():
    from reports.palette import X
    import_module("reports.files")
"""
    found = {(i.imported, i.at_load) for i in imports_of(source, "simulator.cli")}
    assert found == {
        ("reports.canvas", True),
        ("simulator.rules", True),
        ("simulator.commands", True),
        ("pandas", False),
        ("reports.palette", False),
        ("reports.files", False),
    }


def test_torch_is_loaded_in_one_folder_only() -> None:
    """Nothing but measuring knows PyTorch, and nothing loads measuring's parts that do before they are called."""
    torch = [i for i in IMPORTS if _below(i.imported, "torch")]
    assert torch and all(_below(i.importer, "simulator.measuring") for i in torch), _shown(torch)
    heavy = {i.importer for i in torch if i.at_load}
    for start in ("simulator", "simulator.cli", "simulator.validation", "simulator.fitting"):
        assert not _reached(start, at_load_only=True) & heavy
