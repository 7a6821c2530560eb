"""A sweep as a file, Parquet or CSV: written whole or not at all, and read back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hardware_specs.errors import Problem, ScenarioError, SpecError, shorten
from simulator.sweeps.saved_parts import part_files, parts_frame
from simulator.sweeps.sweep_parts import ROW, arrow_table, parquet, write_table
from workloads.json_file import load_json

if TYPE_CHECKING:
    import pandas as pd

    from simulator.sweeps.sweeping import SweepResult

OUT_FIX = "choose another path"

_NEEDED = ("step_time_s", "peak_bytes")
_FIX = "give the file that llmsim sweep --out wrote"


def read_result(path: Path) -> pd.DataFrame:
    """The frame of a saved sweep, with what was left out in ``attrs``.

    Parameters
    ----------
    path : Path
        A file that ``llmsim sweep --out`` wrote.

    Returns
    -------
    pandas.DataFrame
        Swept keys, then results [unit in the name].

    Raises
    ------
    SpecError
        If the file is missing, unreadable or not a sweep.
    """
    import pandas as pd

    if path.is_dir() and part_files(path):
        return parts_frame(part_files(path))
    if not path.is_file():
        raise _refuse(path, "is a directory" if path.is_dir() else "does not exist")
    try:
        frame = _csv(path) if path.suffix == ".csv" else _parquet(path)
    except (OSError, ValueError, KeyError, pd.errors.ParserError) as error:
        raise _refuse(path, f"cannot be read ({shorten(str(error))})") from None
    missing = [name for name in _NEEDED if name not in frame.columns]
    if missing:
        raise _refuse(path, f"is not a saved sweep: it has no {' and no '.join(missing)}")
    wrong = [name for name in _NEEDED if not pd.api.types.is_numeric_dtype(frame[name])]
    if wrong:
        raise _refuse(path, f"is not a saved sweep: {' and '.join(wrong)} must hold numbers")
    return frame


def _refuse(path: Path, rule: str) -> SpecError:
    return SpecError([Problem(path=str(path), value="", rule=rule, fix=_FIX)])


def _csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_csv(path)
    beside = metadata_path(path)
    if beside.is_file():
        frame.attrs.update(load_json(beside))
    return frame


def _parquet(path: Path) -> pd.DataFrame:
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        fix = "pip install 'llmsim[sweep]', or save as .csv"
        raise SpecError([Problem(path=str(path), value="", rule="Parquet needs pyarrow", fix=fix)]) from None
    table = pq.read_table(path)
    frame: pd.DataFrame = table.to_pandas()
    metadata = (pq.read_metadata(path).metadata or {}).get(b"llmsim")
    frame.attrs = json.loads(metadata) if metadata else {}
    return frame


def write_result(result: SweepResult, path: Path) -> None:
    """Write a result as Parquet or CSV by the path's suffix, whole or not at all.

    What was left out stands in the metadata of a Parquet file, and in a JSON file beside a CSV file. Raises
    ScenarioError for another suffix or a path that cannot be written, and where Parquet lacks pyarrow.
    """
    check_writable(path)
    if path.suffix != ".csv":
        parquet()
    metadata = result.metadata()
    parts = [path.with_name(f".{path.name}.part")]
    finals = [path]
    try:
        if path.suffix == ".csv":
            parts.append(path.with_name(f".{path.name}.json.part"))
            finals.append(metadata_path(path))
            result.frame().to_csv(parts[0], index=False)
            parts[1].write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        else:
            write_table(arrow_table(result, metadata).drop_columns([ROW]), parts[0])
        for part, final in zip(parts, finals, strict=True):
            os.replace(part, final)
    except OSError as error:
        for part in parts:
            part.unlink(missing_ok=True)
        rule = f"cannot be written ({error.strerror or error})"
        raise ScenarioError([Problem(path="--out", value=str(path), rule=rule, fix=OUT_FIX)]) from None


def metadata_path(path: Path) -> Path:
    """The JSON file beside a CSV file that holds what was left out and why."""
    return path.with_name(f"{path.name}.json")


def check_writable(path: Path) -> None:
    """Refuse, before any work, a path with another ending, or whose folder is not there or cannot be written.

    A path without ending is a folder of parts.

    Raises ScenarioError.
    """
    folder, rule, fix = path.parent, "", OUT_FIX
    if path.suffix not in (".parquet", ".csv", ""):
        rule = "must end in .parquet or .csv, or name a folder (without an ending)"
        fix = "write such as --out rows.parquet"
    elif path.suffix == "" and path.is_file():
        rule, fix = (
            "is a file, and parts are written to a folder",
            "name a folder, or a file such as rows.parquet",
        )
    elif (path.is_dir() and path.suffix) or (path.suffix == ".csv" and metadata_path(path).is_dir()):
        rule, fix = "is a directory", "name a file"
    elif not folder.is_dir():
        rule, fix = f"cannot be written: {folder} is not a folder", "make the folder or choose another"
    elif not os.access(folder, os.W_OK):
        rule = f"cannot be written: no permission in {folder}"
    if rule:
        raise ScenarioError([Problem(path="--out", value=str(path), rule=rule, fix=fix)])
