"""The terminal summary, and what an import costs."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import estimate_fixtures as given
import pytest
from rich.console import Console

import reports


def printed(estimate: dict[str, Any], width: int = 120, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", write_through=True)
    Console(file=stream, width=width).print(reports.estimate_table(estimate))
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", given.ALL)
def test_fits_the_terminal(name: str, width: int) -> None:
    assert all(len(line) <= width for line in printed(given.ALL[name](), width).splitlines())


def test_headline_has_human_units() -> None:
    text = printed(given.training())
    for words in (
        "4.50 s",
        "62.5 GB of 80.0 GB",
        "123 kJ",
        "27.3 kW",
        "41.0 %",
        "mlp.gate_up (backward)",
        "TP 8, PP 4",
    ):
        assert words in text
    assert "None" not in text and "nan" not in text


def test_interval_is_printed_where_there_is_one() -> None:
    assert "90 % interval" in printed(given.decode())


def test_plain_ascii_terminal() -> None:
    assert "####" in printed(given.training(), encoding="ascii")


def test_reasons_and_way_out_are_printed() -> None:
    text = printed(given.many_operators())
    assert "Does not fit." in text and "Smallest change that fits: plan.zero_stage 1 -> 3" in text


def test_markup_in_names_is_printed_as_it_is() -> None:
    estimate = given.one_operator()
    estimate["operators"][0]["name"] = "[red]matmul[/red]"
    estimate["notes"] = ["[bold]note[/nothing]"]
    text = printed(estimate)
    assert "[red]matmul[/red]" in text and "[bold]note[/nothing]" in text


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_import_is_light() -> None:
    code = "import sys, reports; print(sorted({'matplotlib', 'pandas', 'numpy', 'rich'} & set(sys.modules)))"
    assert run(code).strip() == "[]"


def test_the_terminal_path_needs_neither_matplotlib_nor_pandas() -> None:
    code = (
        "import sys, reports; from rich.console import Console;"
        "Console(quiet=True).print(reports.estimate_table({'step_time_s': 1.0, 'time': {'compute_s': 1.0},"
        " 'operators': [{'name': 'matmul', 'phase': 'forward', 'exposed_s': 1.0}]}));"
        "print(sorted({'matplotlib', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    assert run(code).strip() == "[]"


def test_public_names_are_what_the_package_lists() -> None:
    assert sorted(reports.__all__) == list(reports.__all__) == dir(reports)
    for name in reports.__all__:
        assert getattr(reports, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        reports.nothing  # noqa: B018


def test_reports_imports_none_of_our_packages() -> None:
    import ast
    from pathlib import Path

    for path in Path(reports.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {
                "simulator",
                "workloads",
                "hardware_specs",
            }, path
