"""Files that are whole or absent: bytes go to a temporary name in the same folder and are then renamed."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reports.errors import ReportError

__all__ = ["csv_text", "write_files"]


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV text with a header; None becomes an empty field and floats keep all their digits."""
    table = list(rows)
    names = list(dict.fromkeys(name for row in table for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def write_files(files: Mapping[Path, bytes | str]) -> list[Path]:
    """Write all files, or none when the folder cannot take them.

    Parameters
    ----------
    files : mapping of path to bytes or str
        Text is written as UTF-8. Missing folders are made.

    Returns
    -------
    list of Path
        In the order given.

    Raises
    ------
    ReportError
        If a folder or a file cannot be written; the temporary files are removed.

    Notes
    -----
    ``os.replace`` is atomic on one file system (POSIX.1-2017, ``rename``), so a reader never sees half a
    file.
    """
    temporary: dict[Path, Path] = {}
    current: Path | None = None
    try:
        for current, content in files.items():
            current.parent.mkdir(parents=True, exist_ok=True)
            if current.is_dir():
                raise IsADirectoryError(21, os.strerror(21))
            draft = current.with_name(f".{current.name}.{os.getpid()}-{threading.get_ident()}.tmp")
            temporary[current] = draft
            draft.write_bytes(content.encode() if isinstance(content, str) else content)
        for current, draft in temporary.items():
            os.replace(draft, current)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReportError(f"cannot write {current}: {reason}; give a folder that can be written") from error
    finally:
        for draft in temporary.values():
            draft.unlink(missing_ok=True)
    return list(files)
