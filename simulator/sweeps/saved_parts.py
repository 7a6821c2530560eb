"""Reading the parts of a sweep: what was left out, the best rows, and one file made of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.sweeps.sweep_parts import (
    GROUP_ROWS,
    MANIFEST,
    ROW,
    SweepFolder,
    metadata_of,
    parquet,
    table_writer,
)

if TYPE_CHECKING:
    import pandas as pd


def part_files(path: Path) -> list[Path]:
    """Parts of a folder in order; empty if it has none."""
    return sorted(path.glob("part-*.parquet"))


def excluded_rows(folder: SweepFolder) -> dict[str, int]:
    """Rows of all parts that were left out, by rule; ValueError or OSError if a part cannot be read."""
    total: Counter[str] = Counter()
    for number in range(folder.n_parts):
        total.update(metadata_of(folder.part(number))["excluded"])
    return dict(total)


def summary(folder: SweepFolder) -> dict[str, Any]:
    """What a file of all parts carries beside its columns."""
    pq = parquet()
    kept = sum(pq.read_metadata(folder.part(i)).num_rows for i in range(folder.n_parts))
    return {
        **folder.identity,
        "rows_in_space": folder.n_rows,
        "rows_kept": int(kept),
        "excluded": excluded_rows(folder),
    }


def merge_parts(folder: SweepFolder, final: Path) -> dict[str, Any]:
    """Write all parts as one Parquet file, part by part, renamed into place when whole.

    Returns what the file carries beside its columns. Raises OSError if it cannot be written.
    """
    pq = parquet()
    about = summary(folder)
    temporary = final.with_name(f".{final.name}.part")
    first = pq.read_table(folder.part(0)).drop_columns([ROW])
    like = first.replace_schema_metadata({b"llmsim": json.dumps(about).encode()})
    try:
        with table_writer(temporary, like) as writer:
            for number in range(folder.n_parts):
                table = first if number == 0 else pq.read_table(folder.part(number)).drop_columns([ROW])
                writer.write_table(table.replace_schema_metadata(None), row_group_size=GROUP_ROWS)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return about


def delete_parts(folder: SweepFolder) -> None:
    """Remove the parts and the manifest of a sweep that has become one file, and the folder if it is empty then."""
    for path in [*part_files(folder.path), folder.path / MANIFEST, *folder.path.glob(".*.part")]:
        path.unlink(missing_ok=True)
    if not any(folder.path.iterdir()):
        folder.path.rmdir()


def parts_frame(files: Sequence[Path], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Rows of several parts as one frame, all columns or some, with the first part's metadata in ``attrs``."""
    import pandas as pd

    pq = parquet()
    tables = [pq.read_table(path, columns=list(columns) if columns else None) for path in files]
    frame = pd.concat([table.to_pandas() for table in tables], ignore_index=True)
    frame.attrs = metadata_of(files[0]) if files else {}
    return frame


def candidate_rows(files: Sequence[Path], top: int) -> tuple[pd.DataFrame, int]:
    """Rows among which are the fastest and the front of step time against memory, and how many rows fit [1].

    Parameters
    ----------
    files : sequence of Path
        Parts, read one after the other.
    top : int
        Fastest rows to keep of each [1]; where nothing fits, those that come nearest.

    Returns
    -------
    tuple
        A frame with all columns, and the number of rows that fit.

    Raises
    ------
    OSError, ValueError
        If a part cannot be read.
    """
    import pandas as pd

    pq = parquet()
    frames, n_fit = [], 0
    for path in files:
        table = pq.read_table(path)
        step, peak = (table[name].to_numpy() for name in ("step_time_s", "peak_bytes"))
        fits = np.flatnonzero(table["feasible"].to_numpy())
        n_fit += len(fits)
        if len(fits):
            order = fits[np.lexsort((peak[fits], step[fits]))]
            before = np.minimum.accumulate(np.concatenate(([np.inf], peak[order][:-1])))
            fastest = fits[np.argsort(step[fits], kind="stable")[:top]]
            chosen = np.union1d(fastest, order[peak[order] < before])
        else:
            chosen = np.argsort(peak / table["capacity_bytes"].to_numpy(), kind="stable")[:top]
        frames.append(table.take(chosen).to_pandas())
    frame = pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
    # Where some part has rows that fit, the nearest ones of others are of no interest.
    return (frame[frame["feasible"]] if n_fit else frame).reset_index(drop=True), n_fit
