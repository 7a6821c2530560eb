"""Read one of the measured tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Tables", "read_table"]

# A folder with Parquet and CSV files, or frames by name of the table.
Tables: TypeAlias = "Path | Mapping[str, pd.DataFrame]"


def read_table(tables: Tables, name: str) -> pd.DataFrame:
    """Read a table from a folder, or take it from a mapping; FileNotFoundError or KeyError if it is not there."""
    if not isinstance(tables, Path):
        return tables[name]
    import pandas as pd

    csv = tables / f"{name}.csv"
    return (
        pd.read_csv(csv, low_memory=False) if csv.is_file() else pd.read_parquet(tables / f"{name}.parquet")
    )
