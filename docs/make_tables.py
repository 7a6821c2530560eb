"""Write the tables of README.md and docs/nomenclature.md that the code knows better than a person.

Each table stands between two marker comments, ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``. Run
``python docs/make_tables.py`` after a change of the schema, of the command line, of a rule, of the catalog, or
of the README's example; ``tests/structure`` fails while a table is not what this script makes of the code.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "examples" / "llama-3.1-70b-training.yaml"
# The README shows the head of the output: totals, time, memory.
SHOWN_TABLES = 3
WIDTH = 80


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a vertical bar inside a cell is escaped."""
    lines = [list(heads)]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _split_unit(description: str) -> tuple[str, str]:
    """Meaning and unit of a schema description such as "stages of consecutive layers [1]"."""
    found = re.fullmatch(r"(.*?)\s*\[([^]]+)\]", description)
    return (found[1], found[2]) if found else (description, "")


def _shown_default(field: Any) -> str:
    from pydantic_core import PydanticUndefined

    if field.default_factory is not None:
        return f"`{field.default_factory()}`"
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "derived"
    if isinstance(field.default, (bool, int, str)):
        return f"`{str(field.default).lower()}`"
    return "see below"


def scenario_keys() -> str:
    """Every key of a scenario: unit, default and meaning as the schema states them."""
    from simulator.scenarios.scenario import TASKS, Plan, Scenario

    rows: list[list[str]] = []

    def add(prefix: str, fields: Mapping[str, Any], *, note: str = "") -> None:
        for name, field in fields.items():
            if name == "kind":
                continue
            meaning, unit = _split_unit(field.description or "")
            rows.append([f"`{prefix}{name}`", unit, _shown_default(field), meaning + note])

    add("", Scenario.model_fields)
    rows.append(["`task.kind`", "", "required", ", ".join(TASKS)])
    for kind, task in TASKS.items():
        add("task.", task.model_fields, note=f" ({kind})")
    add("plan.", Plan.model_fields)
    return table(["key", "unit", "default", "meaning"], rows)


def commands() -> str:
    """Every command with the first line of its help."""
    from simulator.cli import app

    rows = []
    for command in app.registered_commands:
        function = command.callback
        if function is not None:
            name = command.name or function.__name__.rstrip("_")
            rows.append([f"`llmsim {name}`", (function.__doc__ or "").strip().split("\n")[0]])
    return table(["command", "what it does"], rows)


def catalog() -> str:
    """Names of the catalog by kind."""
    from hardware_specs import list_accelerators, list_systems
    from simulator.scenarios.precision import RECIPES
    from workloads import list_models

    kinds = {
        "models": list_models(),
        "systems": list_systems(),
        "accelerators": list_accelerators(),
        "precisions": list(RECIPES),
    }
    return "\n".join(f"- {kind}: {', '.join(f'`{n}`' for n in names)}" for kind, names in kinds.items())


def example_output() -> str:
    """The head of what the first command of the README prints."""
    from rich.console import Console

    from reports import estimate_table
    from simulator import simulate

    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    console.print(estimate_table(simulate(EXAMPLE).to_dict()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    paragraphs = re.split(r"\n\s*\n(?=\S)", text.rstrip())
    lines = "\n\n".join(paragraphs[:SHOWN_TABLES]).split("\n")
    return "```text\n" + "\n".join(line.rstrip() for line in lines) + "\n```"


def rules() -> str:
    """Every registered cost rule."""
    import simulator

    for module in walk_packages(simulator.__path__, "simulator."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    from simulator.rules import RULES

    rows = [
        [f"`{name}`", f"`{r.symbol}`", f"`{r.formula}`", r.unit, r.source]
        for name, r in sorted(RULES.items())
    ]
    return table(["rule", "symbol", "formula", "unit", "source"], rows)


def _shown(*tables: Any) -> str:
    """Tables as a terminal shows them."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=WIDTH + 20, color_system=None, legacy_windows=False)
    for one in tables:
        console.print(one)
        console.print()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "```text\n" + "\n".join(line.rstrip() for line in text.rstrip().split("\n")) + "\n```"


def collectives() -> str:
    """The table of the example in docs/network.md."""
    from hardware_specs import load_system
    from reports import network_table
    from simulator.network.system_table import collective_table

    rows = collective_table(
        load_system("dgx-h100"),
        ranks=[8, 64],
        message_bytes=[2.0**20, 2.0**26, 2.0**30],
        algorithms=["auto", "ring"],
    )
    return _shown(network_table(rows))


def replay() -> str:
    """The tables of the replay in docs/network.md."""
    from hardware_specs import load_yaml
    from reports import replay_table
    from simulator.network.scenario_traffic import replay_scenario

    rows = replay_scenario({**load_yaml(EXAMPLE), "devices": 64})
    return _shown(*(replay_table([r for r in rows if r["together"] == both]) for both in (False, True)))


BLOCKS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {
        "example output": example_output,
        "commands": commands,
        "scenario keys": scenario_keys,
        "catalog": catalog,
    },
    "docs/nomenclature.md": {"rules": rules},
    "docs/network.md": {"collectives": collectives, "replay": replay},
}


def with_block(text: str, name: str, content: str) -> str:
    """``text`` with the part between the markers of a block replaced; KeyError without the markers."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    if begin not in text or end not in text:
        raise KeyError(name)
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{content}\n{end}{rest.split(end, 1)[1]}"


def made(file: str) -> str:
    """What a file looks like with all of its tables made anew."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    for name, make in BLOCKS[file].items():
        text = with_block(text, name, make())
    return text


def main() -> None:
    """Write every file whose tables have changed, and say so."""
    for file in BLOCKS:
        text = made(file)
        if text != (REPOSITORY / file).read_text(encoding="utf-8"):
            (REPOSITORY / file).write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {file}\n")


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
