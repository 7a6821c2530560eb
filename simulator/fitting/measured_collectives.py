"""Read measured collectives into sent bytes and steps of the ring algorithms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simulator.fitting.devices import MeasuredDevice
from simulator.fitting.measured_kernels import read_table
from simulator.fitting.rows import BoolArray, FloatArray, TextArray, left_out_by_group

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CollectiveRows", "across_node_rows", "captured_rows", "nccl_rows", "ring_traffic", "user_rows"]

IN_SWITCH_MIN_RANKS = 5  # NCCL 2.2x keeps the ring at four ranks and fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveRows:
    """Measured collectives; all arrays have the shape ``(rows,)``.

    Attributes
    ----------
    operation : ndarray of str
        all_reduce, all_gather, reduce_scatter, alltoall or send_recv.
    n_ranks, message_bytes : ndarray
        Ranks [1] and the message as nccl-tests counts it [byte].
    link_bytes_per_s : float
        One-way bandwidth of one rank into the fabric [byte/s].
    measured_s : ndarray
        Measured time [s].
    stack, size_class : ndarray of str
        Library with version, and small, middle or large.
    in_switch : ndarray of bool
        Rows that the switch may have reduced.
    left_out : ndarray of bool
        Rows that no coefficient sees: whole (operation, ranks, message) groups.
    """

    operation: TextArray
    n_ranks: FloatArray
    message_bytes: FloatArray
    link_bytes_per_s: float
    measured_s: FloatArray
    stack: TextArray
    size_class: TextArray
    in_switch: BoolArray
    left_out: BoolArray

    def __len__(self) -> int:
        return int(self.measured_s.size)

    def where(self, keep: BoolArray) -> CollectiveRows:
        """Return the rows for which ``keep``, a boolean array of shape ``(rows,)``, is true."""
        return CollectiveRows(
            operation=self.operation[keep],
            n_ranks=self.n_ranks[keep],
            message_bytes=self.message_bytes[keep],
            link_bytes_per_s=self.link_bytes_per_s,
            measured_s=self.measured_s[keep],
            stack=self.stack[keep],
            size_class=self.size_class[keep],
            in_switch=self.in_switch[keep],
            left_out=self.left_out[keep],
        )


def ring_traffic(
    operation: TextArray, n_ranks: FloatArray, message_bytes: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Bytes that one rank sends in one direction, and exchanges that depend on each other.

    Parameters
    ----------
    operation : ndarray of str, shape (rows,)
        all_reduce, all_gather, reduce_scatter, alltoall or send_recv.
    n_ranks, message_bytes : ndarray, shape (rows,)
        Ranks [1]; message [byte] as nccl-tests counts it.

    Returns
    -------
    tuple of ndarray
        Sent bytes [byte] and steps [1], both of shape ``(rows,)``.
    """
    share = (n_ranks - 1) / n_ranks * message_bytes
    reduce, send = operation == "all_reduce", operation == "send_recv"
    one_step = send | (operation == "alltoall")
    sent_bytes = np.select([reduce, send], [2 * share, message_bytes], share)
    steps = np.select([reduce, one_step], [2 * (n_ranks - 1), np.ones_like(n_ranks)], n_ranks - 1)
    return sent_bytes, steps


def _rows(
    operation: TextArray,
    n_ranks: FloatArray,
    message_bytes: FloatArray,
    link_bytes_per_s: float,
    measured_s: FloatArray,
    stack: TextArray,
    in_switch: BoolArray,
) -> CollectiveRows:
    sizes = np.select([message_bytes <= 2**16, message_bytes < 2**23], ["small", "middle"], "large")
    groups = [f"{o}/{int(n)}/{int(s)}" for o, n, s in zip(operation, n_ranks, message_bytes, strict=True)]
    return CollectiveRows(
        operation=operation,
        n_ranks=n_ranks,
        message_bytes=message_bytes,
        link_bytes_per_s=link_bytes_per_s,
        measured_s=measured_s,
        stack=stack,
        size_class=sizes.astype(np.str_),
        in_switch=in_switch,
        left_out=left_out_by_group(groups),
    )


def nccl_rows(folder: Path, device: MeasuredDevice, *, in_switch_reduction: bool) -> CollectiveRows:
    """NCCL of 2, 4 and 8 ranks inside one node, 16-bit elements, all versions of the table."""
    frame = read_table(folder, "collectives")
    frame = frame[
        (frame.device == device.collective_table) & (frame.impl == "NCCL") & (frame.dtype == "half")
    ]
    operation = frame.op.to_numpy(dtype=np.str_)
    n_ranks = frame.n_gpus.to_numpy(dtype=np.float64)
    reduced = (operation == "all_reduce") & (n_ranks >= IN_SWITCH_MIN_RANKS)
    return _rows(
        operation,
        n_ranks,
        frame.bytes.to_numpy(dtype=np.float64),
        device.link_bytes_per_s,
        frame.latency_us.to_numpy(dtype=np.float64) * 1e-6,
        ("nccl-" + frame.version).to_numpy(dtype=np.str_),
        reduced if in_switch_reduction else np.zeros_like(reduced),
    )


def user_rows(frame: pd.DataFrame, link_bytes_per_s: float) -> CollectiveRows:
    """Rows of a user's table of collectives, none of them reduced in a switch; KeyError for a missing column."""
    return _rows(
        frame["op"].to_numpy(dtype=np.str_),
        frame["n_gpus"].to_numpy(dtype=np.float64),
        frame["bytes"].to_numpy(dtype=np.float64),
        link_bytes_per_s,
        frame["latency_us"].to_numpy(dtype=np.float64) * 1e-6,
        frame["impl"].to_numpy(dtype=np.str_) if "impl" in frame else np.full(len(frame), "unstated"),
        np.zeros(len(frame), dtype=np.bool_),
    )


def captured_rows(folder: Path, device: MeasuredDevice, *, in_switch_reduction: bool) -> CollectiveRows:
    """All-reduces of the DGX tables (PyTorch, captured in a graph) in one node: another stack, to score."""
    frame = read_table(folder, "collectives")
    frame = frame[(frame.device == device.node_table) & (frame.op == "all_reduce")]
    frame = frame[frame.n_gpus == frame.gpus_per_node]
    n_ranks = frame.n_gpus.to_numpy(dtype=np.float64)
    reduced = (n_ranks >= IN_SWITCH_MIN_RANKS) & in_switch_reduction
    rows = _rows(
        frame.op.to_numpy(dtype=np.str_),
        n_ranks,
        frame.bytes.to_numpy(dtype=np.float64),
        device.link_bytes_per_s,
        frame.latency_us.to_numpy(dtype=np.float64) * 1e-6,
        np.array(["torch-graph"] * len(frame), dtype=np.str_),
        reduced,
    )
    return replace(rows, left_out=np.ones_like(rows.left_out))


def across_node_rows(folder: Path, device: MeasuredDevice) -> CollectiveRows:
    """Messages between two GPUs in different nodes of the DGX tables, through one network port."""
    frame = read_table(folder, "collectives")
    frame = frame[
        (frame.device == device.node_table) & (frame.op == "send_recv") & (frame.gpus_per_node == 1)
    ]
    return _rows(
        frame.op.to_numpy(dtype=np.str_),
        frame.n_gpus.to_numpy(dtype=np.float64),
        frame.bytes.to_numpy(dtype=np.float64),
        device.port_bytes_per_s,
        frame.latency_us.to_numpy(dtype=np.float64) * 1e-6,
        np.array(["torch-graph"] * len(frame), dtype=np.str_),
        np.zeros(len(frame), dtype=np.bool_),
    )
