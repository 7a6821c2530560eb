"""Where results go: standard output, and files that are written whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_specs.errors import Problem, ScenarioError

if TYPE_CHECKING:
    from rich.progress import Progress

PROGRESS_ROWS = 100_000


def emit(text: str) -> None:
    """Write text and a line end to standard output."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def emit_wrapped(text: str, indent: str = "  ") -> None:
    """Write a sentence to standard output, broken at the width of the terminal."""
    import textwrap

    from rich.console import Console

    emit(textwrap.fill(text, Console().width, subsequent_indent=indent))


def display(renderable: Any) -> None:
    """Print a table of rich."""
    from rich.console import Console

    Console().print(renderable)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; all have the keys of the first."""
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _refuse(path: Path, rule: str, fix: str) -> ScenarioError:
    return ScenarioError([Problem(path="--out", value=str(path), rule=rule, fix=fix)])


def check_folder(folder: Path, names: Sequence[str] = ()) -> None:
    """Refuse, before any work, a folder that cannot be made or written, or holds folders of those names."""
    import os

    if not str(folder).strip() or str(folder) == ".":
        raise _refuse(folder, "must name a folder", "write such as --out results")
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise _refuse(folder, f"cannot be a folder: {parent} is a file", "choose another path")
    if not os.access(parent, os.W_OK):
        raise _refuse(folder, f"cannot be written: no permission in {parent}", "choose another path")
    for name in names:
        if (folder / name).is_dir():
            raise _refuse(folder, f"cannot be written: {folder / name} is a folder", "choose another path")


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files or none: to temporary names first, then renamed; ScenarioError if it cannot be done."""
    import os

    check_folder(folder, list(files))
    temporary: list[tuple[Path, Path]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            part = folder / f".{name}.part"
            temporary.append((part, folder / name))
            part.write_text(text, encoding="utf-8")
        for part, final in temporary:
            os.replace(part, final)
    except OSError as error:
        for part, _ in temporary:
            if folder.is_dir():
                part.unlink(missing_ok=True)
        raise _refuse(folder, f"cannot be written ({error.strerror})", "choose another path") from None


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on standard error where there is enough to do; None otherwise."""
    if total < PROGRESS_ROWS:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar: Progress = Bar(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
