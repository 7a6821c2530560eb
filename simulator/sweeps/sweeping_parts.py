"""A sweep that is written part by part: to a folder that stays, or to one file by way of a folder beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, ScenarioError
from simulator.spaces.space import Space
from simulator.sweeps.part_workers import write_parts
from simulator.sweeps.saved_parts import delete_parts, merge_parts, summary
from simulator.sweeps.sweep_parts import PART_ROWS, SweepFolder, cannot_write, open_folder, parquet


def parts_folder(out: Path) -> Path:
    """Folder of the parts of a sweep that is to become one file; the path itself if that is a folder."""
    return out.with_name(f"{out.name}.parts") if out.suffix else out


@contextmanager
def swept_parts(
    space: Space,
    out: Path | None,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    part_rows: int = PART_ROWS,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[SweepFolder, dict[str, Any]]]:
    """Write a sweep in parts, going on where an earlier run of the same sweep was stopped.

    Parameters
    ----------
    space : Space
        The sweep.
    out : Path or None
        A path without suffix is a folder that keeps the parts; FILE.parquet is made from parts in a folder beside it,
        which is deleted at the end; None writes to a temporary folder.
    workers, scheduler
        As :func:`simulator.sweeps.part_workers.write_parts`.
    part_rows : int
        Row numbers per part of a new folder [1].
    progress : callable, optional
        Called with the rows done so far.

    Yields
    ------
    tuple of SweepFolder and dict
        The folder with all its parts, and what was kept and left out.

    Raises
    ------
    ScenarioError
        If something cannot be written, the folder is that of another sweep, or workers or scheduler fail.
    """
    parquet()
    if out is not None and out.suffix == ".csv":
        rule, fix = "is one file of text, and parts are Parquet", "write such as --out rows.parquet"
        raise ScenarioError([Problem(path="--out", value=str(out), rule=rule, fix=fix)])
    with tempfile.TemporaryDirectory(prefix="llmsim-") as temporary:
        place = Path(temporary) / "sweep" if out is None else parts_folder(out)
        folder = open_folder(place, space, part_rows)
        write_parts(space, folder, workers=workers, scheduler=scheduler, progress=progress)
        about = summary(folder)
        if out is not None and out.suffix and about["rows_kept"]:
            try:
                merge_parts(folder, out)
            except OSError as error:
                raise cannot_write(out, error) from None
        yield folder, about
        if out is not None and out.suffix:
            delete_parts(folder)
