"""The README keeps its word: commands run, snippets run, tables are those of the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from typer.testing import CliRunner

from simulator import simulate, sweep
from simulator.cli import app
from simulator.spaces.space import space_from

REPOSITORY = Path(__file__).resolve().parents[2]
NEED_A_TABLE = ("validate", "calibrate", "measure", "read")  # or minutes of the machine itself
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CONTINUOUS_INTEGRATION = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def fences(language: str) -> list[str]:
    """Code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """Arguments of every ``llmsim`` command in a code block, in order; those of the set-up too."""
    lines = [
        part.strip() for block in fences("bash") for line in block.split("\n") for part in line.split("&&")
    ]
    return [shlex.split(line)[1:] for line in lines if line.startswith("llmsim ")]


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tables", REPOSITORY / "docs" / "make_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = _tables()
BLOCKS = [(file, name) for file, blocks in TABLES.BLOCKS.items() for name in blocks]


@pytest.mark.parametrize(("file", "name"), BLOCKS)
def test_made_tables_are_those_of_the_code(file: str, name: str) -> None:
    """A difference means: run ``python docs/make_tables.py`` and say in CHANGELOG.md what changed."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    assert TABLES.with_block(text, name, TABLES.BLOCKS[file][name]()) == text


def test_every_scenario_key_has_a_meaning() -> None:
    cells = [line.split(" | ") for line in TABLES.scenario_keys().split("\n")[2:]]
    assert all(len(cell) == 4 and cell[3].strip(" |") for cell in cells)


def test_set_up_is_two_commands_which_continuous_integration_runs() -> None:
    set_up = README.split("## Set-up")[1].split("\n## ")[0]
    lines = [block.strip() for block in re.findall(r"```bash\n(.*?)```", set_up, flags=re.DOTALL)]
    assert len(lines) == 2
    assert all("\n" not in line for line in lines)
    job, tests = (line.split(" && ") for line in lines)
    for command in (job[-1], tests[-1]):
        assert command in CONTINUOUS_INTEGRATION


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples, in which commands may write."""
    shutil.copytree(REPOSITORY / "examples", tmp_path / "examples")
    shutil.copy(REPOSITORY / "hardware_specs" / "accelerators" / "h100-sxm.yaml", tmp_path / "my-chip.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_in_their_order(checkout: Path) -> None:
    """One after the other, since some read what an earlier one wrote; those that need a user's table are apart."""
    shown = [c for c in commands() if c[0] not in NEED_A_TABLE]
    assert len(shown) > 10
    for arguments in shown:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"llmsim {shlex.join(arguments)}: {done.exception or done.output}"


@pytest.mark.parametrize("command", NEED_A_TABLE)
def test_commands_on_tables_have_the_options_that_are_shown(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    shown = [c for c in commands() if c[0] == command]
    assert shown
    assert all(option in text for c in shown for option in c if option.startswith("--"))


def test_every_command_is_toured() -> None:
    registered = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    assert {c[0] for c in commands()} == {name.rstrip("_") for name in registered}


@pytest.mark.parametrize("text", fences("yaml"))
def test_yaml_snippets_run(text: str) -> None:
    data = yaml.safe_load(text)
    if space_from(data).axes:
        assert len(sweep(data)) > 1
    else:
        assert simulate(data).step_time_s > 0


def test_the_scenario_shown_is_the_example() -> None:
    example = yaml.safe_load((REPOSITORY / "examples" / "llama-3.1-70b-training.yaml").read_text())
    assert yaml.safe_load(fences("yaml")[0]) == example


@pytest.mark.parametrize("source", fences("python"))
def test_python_snippets_run(source: str, checkout: Path) -> None:
    exec(compile(source, "README.md", "exec"), {})


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/decisions.md", "docs/nomenclature.md"]
)
def test_links_lead_somewhere(file: str) -> None:
    path = REPOSITORY / file
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing


def test_pictures_are_small() -> None:
    pictures = list((REPOSITORY / "docs" / "images").glob("*"))
    assert pictures
    assert all(p.suffix == ".png" and p.stat().st_size < 200_000 for p in pictures)
