"""Read a sweep that was saved as Parquet or CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hardware_specs.errors import Problem, SpecError

if TYPE_CHECKING:
    import pandas as pd


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
        raise SpecError([Problem(path=str(path), value="", rule="is not a file")])
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else _parquet(path)
    except (OSError, ValueError, KeyError) as error:
        raise SpecError(
            [Problem(path=str(path), value="", rule=f"cannot be read ({str(error)[:80]})")]
        ) from None
    if "step_time_s" not in frame.columns:
        raise SpecError(
            [Problem(path=str(path), value="", rule="is not a saved sweep: it has no step_time_s")]
        )
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
