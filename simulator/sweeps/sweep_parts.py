"""A sweep as a folder of Parquet parts, each written whole by whoever evaluated it, so that it can be resumed.

A part holds the legal rows of a range of row numbers. It is written under a temporary name, flushed to disk and then
renamed, so a part with its final name is whole, whenever and whatever was killed; two processes that write the same
part write the same rows. Every part carries the sweep's identity: parts of another sweep are refused.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import Problem, ScenarioError
from simulator.composition.evaluate import RESULT_COLUMNS
from simulator.composition.layer_cache import LayerCache
from simulator.spaces.partition import Splitter
from simulator.spaces.space import Space
from simulator.sweeps.sweep_identity import identity
from simulator.sweeps.sweeping import DOES_NOT_FIT, FITS, SweepResult, run_rows, value_array

# A task for one process: row numbers, of which the legal ones become rows.
PART_ROWS = 2**20
# Rows that are read together: a question about a few rows reads a few of these.
GROUP_ROWS = 65_536
# Takes 0.6 of the time of level 1; files are a tenth larger.
ZSTD_LEVEL = -4
MANIFEST = "sweep.json"
ROW = "row"
OUT_FIX = "choose another path"


def parquet() -> Any:
    """The Parquet module of pyarrow; ScenarioError where pyarrow is not installed."""
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise _refuse("", "Parquet needs pyarrow", "pip install 'llmsim[sweep]', or write .csv") from None
    return pq


def _refuse(path: Any, rule: str, fix: str = OUT_FIX) -> ScenarioError:
    return ScenarioError([Problem(path="--out", value=str(path), rule=rule, fix=fix)])


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFolder:
    """Where the parts of one sweep are.

    Attributes
    ----------
    path : Path
        The folder.
    identity : mapping
        Of the sweep, with its ``fingerprint``.
    n_rows : int
        Rows of the space, legal or not [1].
    part_rows : int
        Row numbers per part [1].
    """

    path: Path
    identity: dict[str, Any]
    n_rows: int
    part_rows: int

    @property
    def n_parts(self) -> int:
        """Parts of the whole sweep [1]."""
        return -(-self.n_rows // self.part_rows)

    def part(self, number: int) -> Path:
        """Path of a part."""
        return self.path / f"part-{number:06d}.parquet"

    def span(self, number: int) -> tuple[int, int]:
        """Row numbers [start, stop) of a part."""
        start = number * self.part_rows
        return start, min(start + self.part_rows, self.n_rows)

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there yet."""
        return [number for number in range(self.n_parts) if not self.part(number).is_file()]


def open_folder(path: Path, space: Space, part_rows: int = PART_ROWS) -> SweepFolder:
    """Make the folder of a sweep, or open it to go on.

    Parameters
    ----------
    path : Path
        A folder that is not there, is empty, or holds parts of the same sweep.
    space : Space
        The sweep.
    part_rows : int
        Row numbers per part [1]; an existing folder keeps its own.

    Returns
    -------
    SweepFolder
        With what an earlier run has left in it.

    Raises
    ------
    ScenarioError
        If the folder is that of another sweep, holds something else, or cannot be written.
    """
    about = identity(space)
    manifest = path / MANIFEST
    try:
        if manifest.is_file():
            found = json.loads(manifest.read_text(encoding="utf-8"))
            if found["identity"]["fingerprint"] != about["fingerprint"]:
                changed = _differences(found["identity"], about)
                rule = (
                    f"holds the parts of another sweep (other {changed}), and rows of two sweeps do not mix"
                )
                raise _refuse(path, rule, "choose another path, or delete the folder")
            return SweepFolder(
                path=path,
                identity=found["identity"],
                n_rows=int(found["n_rows"]),
                part_rows=int(found["part_rows"]),
            )
        if path.is_dir() and any(not p.name.startswith(".") for p in path.iterdir()):
            raise _refuse(path, f"is a folder with other files in it and no {MANIFEST}")
        path.mkdir(parents=True, exist_ok=True)
        folder = SweepFolder(path=path, identity=about, n_rows=space.n_rows, part_rows=part_rows)
        text = json.dumps(
            {"identity": about, "n_rows": folder.n_rows, "part_rows": part_rows, "n_parts": folder.n_parts},
            indent=1,
        )
        _write_whole(manifest, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    except (ValueError, KeyError, TypeError):
        raise _refuse(path, f"has a {MANIFEST} that is not that of a sweep") from None
    except OSError as error:
        raise cannot_write(path, error) from None
    return folder


def cannot_write(path: Path, error: OSError) -> ScenarioError:
    """The error for a file or folder that the system refuses to write."""
    return _refuse(
        path, f"cannot be written ({error.strerror or error})", "make room, or choose another path"
    )


def _differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    names = [k for k in other if k != "fingerprint" and one.get(k) != other[k]]
    return ", ".join(names) or "values"


def _write_whole(final: Path, write: Any) -> None:
    """Write a file under a temporary name, flush it to disk, rename it; OSError leaves nothing behind."""
    part = final.with_name(f".{final.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, final)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


_engines: dict[str, tuple[Splitter, LayerCache]] = {}


def _engine(space: Space, fingerprint: str) -> tuple[Splitter, LayerCache]:
    """What a process keeps from part to part of one sweep."""
    if fingerprint not in _engines:
        _engines.clear()
        _engines[fingerprint] = (Splitter(space), LayerCache())
    return _engines[fingerprint]


def write_part(space: Space, folder: SweepFolder, number: int) -> int:
    """Evaluate the rows of a part and write it; runs in any process that sees the folder.

    Parameters
    ----------
    space, folder : Space, SweepFolder
        The sweep.
    number : int
        Of the part.

    Returns
    -------
    int
        Rows of the space that were gone through [1].

    Raises
    ------
    ScenarioError
        If it cannot be written; parts that are there stay whole.
    """
    start, stop = folder.span(number)
    if folder.part(number).is_file():
        return stop - start
    splitter, cache = _engine(space, folder.identity["fingerprint"])
    result = run_rows(splitter, cache, start, stop)
    about = {"part": number, "start": start, "stop": stop, "excluded": result.excluded}
    table = arrow_table(result, {**folder.identity, **about})
    try:
        _write_whole(folder.part(number), lambda part: write_table(table, part))
    except OSError as error:
        raise cannot_write(folder.part(number), error) from None
    return stop - start


def write_table(table: Any, path: Path) -> None:
    """Write an Arrow table as Parquet; OSError if it cannot be written."""
    with table_writer(path, table) as writer:
        writer.write_table(table, row_group_size=GROUP_ROWS)


@contextmanager
def table_writer(path: Path, like: Any) -> Iterator[Any]:
    """A Parquet writer (zstd) for tables such as ``like``, whose own metadata the file gets; OSError as it writes.

    Text is coded by dictionary; numbers hardly repeat.
    """
    import pyarrow as pa

    few = [
        f.name
        for f in like.schema
        if pa.types.is_dictionary(f.type) or pa.types.is_boolean(f.type) or pa.types.is_string(f.type)
    ]
    # Without the Arrow schema: readers get text as text, not as categories.
    writer = parquet().ParquetWriter(
        path,
        like.schema.remove_metadata(),
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=few,
        store_schema=False,
    )
    with writer:
        yield writer
        writer.add_key_value_metadata(like.schema.metadata or {})


def arrow_table(result: SweepResult, about: dict[str, Any]) -> Any:
    """The rows of a result as an Arrow table: swept keys, results, reason and row number, with metadata."""
    import pyarrow as pa

    parquet()
    columns: dict[str, Any] = {}
    positions = result.space.positions(result.rows)
    for i, axis in enumerate(result.space.axes):
        for key, values in zip(axis.keys, axis.values, strict=True):
            columns[key] = _coded(value_array(values), positions[i])
    results = result.columns or {name: np.zeros(0) for name in RESULT_COLUMNS}
    feasible = np.asarray(results["feasible"] > 0)
    for name, column in results.items():
        columns[name] = pa.array(feasible if name == "feasible" else column)
    columns["reason"] = _coded(np.array([DOES_NOT_FIT, FITS], dtype=object), feasible.astype(np.int64))
    columns[ROW] = pa.array(result.rows)
    return pa.table(columns).replace_schema_metadata({b"llmsim": json.dumps(about).encode()})


def _coded(values: NDArray[Any], positions: NDArray[np.int64]) -> Any:
    """A column as positions in a list of values: text is written once."""
    import pyarrow as pa

    if values.dtype != object:
        return pa.array(values[positions])
    texts = pa.array([None if v is None else str(v) for v in values], type=pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(positions.astype(np.int32)), texts)


def metadata_of(path: Path) -> dict[str, Any]:
    """What a part says about itself; ValueError or OSError if it is no part."""
    found: dict[str, Any] = json.loads(parquet().read_metadata(path).metadata[b"llmsim"])
    return found
