"""Read a sweep that was saved as Parquet or CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hardware_specs.errors import Problem, SpecError
from workloads.json_file import load_json

if TYPE_CHECKING:
    import pandas as pd

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

    if not path.is_file():
        raise _refuse(path, "is a directory" if path.is_dir() else "does not exist")
    try:
        frame = _csv(path) if path.suffix == ".csv" else _parquet(path)
    except (OSError, ValueError, KeyError, pd.errors.ParserError) as error:
        raise _refuse(path, f"cannot be read ({str(error)[:80]})") from None
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

    # The default parser of pandas is fast and may be off in the last digit.
    frame = pd.read_csv(path, float_precision="round_trip")
    beside = path.with_name(f"{path.name}.json")
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
    metadata = (table.schema.metadata or {}).get(b"llmsim")
    frame.attrs = json.loads(metadata) if metadata else {}
    return frame
