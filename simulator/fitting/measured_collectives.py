"""Read measured collectives: operation, ranks, message and time of each row."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from simulator.fitting.measured_kernels import read_table
from simulator.fitting.rows import BoolArray, FloatArray, TextArray, left_out_by_group
from simulator.kernels.size_classes import LARGE_MESSAGE_BYTES, SMALL_MESSAGE_BYTES

__all__ = ["CollectiveRows", "collective_rows", "message_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRows:
    """Measured collectives; all arrays have the shape ``(rows,)``.

    Attributes
    ----------
    operation : ndarray of str
        all_reduce, all_gather, reduce_scatter, all_to_all or send_recv.
    n_ranks, message_bytes : ndarray
        Ranks [1] and the whole buffer [byte].
    measured_s : ndarray
        Measured time [s].
    stack, size_class : ndarray of str
        Library with version, and small, middle or large.
    left_out : ndarray of bool
        Rows that no coefficient sees when errors of left-out rows are stated: whole (operation, ranks, message) groups.
    """

    operation: TextArray
    n_ranks: FloatArray
    message_bytes: FloatArray
    measured_s: FloatArray
    stack: TextArray
    size_class: TextArray
    left_out: BoolArray

    def __len__(self) -> int:
        return int(self.measured_s.size)

    def where(self, keep: BoolArray) -> CollectiveRows:
        """Return the rows for which ``keep``, a boolean array of shape ``(rows,)``, is true."""
        return replace(self, **{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    @property
    def cell_weights(self) -> FloatArray:
        """Weights that give each operation, rank count and size class the same total, with mean 1 [1]."""
        parts = zip(self.operation, self.n_ranks, self.size_class, strict=True)
        cells = np.array([f"{operation}/{ranks}/{size}" for operation, ranks, size in parts])
        names, index, counts = np.unique(cells, return_inverse=True, return_counts=True)
        weights: FloatArray = len(self) / (len(names) * counts[index].astype(np.float64))
        return weights


def collective_rows(
    operation: TextArray,
    n_ranks: FloatArray,
    message_bytes: FloatArray,
    measured_s: FloatArray,
    stack: TextArray,
) -> CollectiveRows:
    """Rows with their size class and what is left out; all arrays have the shape ``(rows,)``, SI units."""
    sizes = np.select(
        [message_bytes <= SMALL_MESSAGE_BYTES, message_bytes < LARGE_MESSAGE_BYTES],
        ["small", "middle"],
        "large",
    )
    groups = [f"{o}/{int(n)}/{int(s)}" for o, n, s in zip(operation, n_ranks, message_bytes, strict=True)]
    return CollectiveRows(
        operation=operation,
        n_ranks=n_ranks,
        message_bytes=message_bytes,
        measured_s=measured_s,
        stack=stack,
        size_class=sizes.astype(np.str_),
        left_out=left_out_by_group(groups),
    )


def message_rows(
    folder: Path,
    device: str,
    implementations: tuple[str, ...],
    *,
    dtypes: tuple[str, ...] = ("half", "bfloat16"),
    per_node: float | None = None,
    gathered_per_rank: bool = False,
) -> CollectiveRows:
    """Rows of one device and some libraries from ``collectives.parquet``.

    Parameters
    ----------
    folder : Path
        Where the tables are.
    device : str
        Name in the table.
    implementations : tuple of str
        Libraries.
    dtypes : tuple of str
        Element types; times depend on bytes, not on types.
    per_node : float, optional
        Only rows with that many devices per node.
    gathered_per_rank : bool
        Whether the table's bytes of an all-gather are one rank's input. They are the whole output, but for oneCCL:
        its all-gather would else be n times slower than its reduce-scatter.

    Returns
    -------
    CollectiveRows
        In the order of the table.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    """
    frame = read_table(folder, "collectives")
    frame = frame[(frame.device == device) & frame.impl.isin(implementations) & frame.dtype.isin(dtypes)]
    if per_node is not None:
        frame = frame[frame.gpus_per_node == per_node]
    operation = frame.op.replace({"alltoall": "all_to_all"}).to_numpy(dtype=np.str_)
    n_ranks = frame.n_gpus.to_numpy(dtype=np.float64)
    message = frame.bytes.to_numpy(dtype=np.float64)
    if gathered_per_rank:
        message = np.where(operation == "all_gather", n_ranks * message, message)
    return collective_rows(
        operation,
        n_ranks,
        message,
        frame.latency_us.to_numpy(dtype=np.float64) * 1e-6,
        (frame.impl + "-" + frame.version).to_numpy(dtype=np.str_),
    )
