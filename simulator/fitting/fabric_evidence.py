"""Errors of the fitted collectives: fitted, left out by rank count, by library, and between nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hardware_specs import load_system, to_mapping
from simulator.communication.collectives import exchange
from simulator.communication.placement import place
from simulator.fitting.fit_collectives import predict_collectives
from simulator.fitting.fit_fabrics import (
    FABRICS,
    FabricSource,
    fit_library,
    fit_one_shot,
    library_rows,
    with_in_switch_prior,
)
from simulator.fitting.measured_collectives import CollectiveRows, message_rows
from simulator.fitting.rows import FloatArray
from simulator.machines.device import Machines
from simulator.machines.fabric import fabric_columns
from simulator.machines.hardware_leaves import HardwareLeaves
from simulator.scenarios.precision import RECIPES

__all__ = ["between_nodes_table", "fabric_tables", "multi_node_predictions"]

GIB = 2.0**30
LARGE_BYTES = 16e6
QUICK_LIBRARIES = ("vLLM_custom_graph", "SGLang_CustomAllReduce_graph", "TRTLLM")


def _line(what: str, rows: CollectiveRows, predicted: FloatArray) -> str:
    off = np.abs(predicted / rows.measured_s - 1)
    parts = [f"{what:52} {len(rows):5d} rows  all {100 * off.mean():5.1f}"]
    for operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        here = rows.operation == operation
        if here.any():
            parts.append(f"{operation} {100 * off[here].mean():.1f}")
    for size in ("small", "middle", "large"):
        here = rows.size_class == size
        if here.any():
            parts.append(f"{size} {100 * off[here].mean():.1f}")
    return "  ".join(parts)


def _intra_node(folder: Path, source: FabricSource) -> list[str]:
    rows = library_rows(folder, source)
    fits = fit_library(source, rows)
    lines = [
        _line(
            f"{source.table}, {source.library}, fitted", rows, predict_collectives(rows, source.fabric, fits)
        )
    ]
    eight_bit = library_rows(folder, source, dtypes=("int8",))
    lines.append(
        _line(
            f"{source.table}, {source.library}, 8-bit elements, not fitted",
            eight_bit,
            predict_collectives(eight_bit, source.fabric, fits),
        )
    )
    most = rows.n_ranks.max()
    few, many = rows.where(rows.n_ranks < most), rows.where(rows.n_ranks == most)
    if len(set(few.n_ranks)) > 1:
        blind = with_in_switch_prior(fit_library(source, few))
        lines.append(
            _line(
                f"{source.table}, fitted on fewer, tested on {most:.0f} ranks",
                many,
                predict_collectives(many, source.fabric, blind),
            )
        )
    for library in QUICK_LIBRARIES if source.one_shot else ():
        quick = message_rows(folder, source.table, (library,))
        own = {**fits, **fit_one_shot(quick, source, fits)}
        lines.append(
            _line(f"{source.table}, {library}", quick, predict_collectives(quick, source.fabric, own))
        )
    return lines


def multi_node_predictions(
    system: str, ranks: int, message_bytes: FloatArray, links: str | None = None
) -> FloatArray:
    """All-reduce seconds of the shipped calibration over ``ranks`` of a catalog system [s]; SpecError if unknown.

    ``links`` stands in for the network ports of a node [1].
    """
    data = to_mapping(load_system(system))
    if links is not None:
        data["scale_out"]["links"] = links
    leaves = HardwareLeaves(systems=[load_system(data)], index=np.zeros(1, dtype=np.intp))
    machines = Machines(
        leaves=leaves, precisions=[RECIPES["bf16"]], precision_index=np.zeros(1, dtype=np.intp)
    )
    devices = np.full(1, float(ranks))
    fabric = fabric_columns(machines, devices)
    return exchange("all_reduce", message_bytes, place(devices, np.ones(1), devices, fabric), fabric).seconds


def between_nodes_table(folder: Path) -> list[str]:
    """Lines on rows of several nodes, which no coefficient saw: bus bandwidth and errors; none are fitted."""
    import pandas as pd

    frame = pd.read_csv(folder / "micro.csv", low_memory=False)
    frame = frame[(frame.n_devices == 32) & (frame.kind == "collective") & (frame.message_bytes >= GIB)]
    message = frame.message_bytes.to_numpy(dtype=np.float64)
    bus = 2 * 31 / 32 * message / multi_node_predictions("dgx-b200", 32, message)
    off = bus / (frame.value.to_numpy(dtype=np.float64) * 1e9) - 1
    lines = [
        f"32 x B200 over EFA, all-reduce of {m / GIB:.0f} GiB: bus bandwidth {b / 1e9:.0f} GB/s, measured {v:.0f}, "
        f"{100 * e:+.1f} %"
        for m, b, v, e in zip(message, bus, frame.value, off, strict=True)
    ]
    return lines + _two_nodes_table(folder)


def _two_nodes_table(folder: Path) -> list[str]:
    """All-reduces of 16 A100 in two nodes, row by row, beside one GPU of each node, which shows the port."""
    every = message_rows(folder, "a100_dgx", ("NCCL(torch, cuda graph)",))
    pairs = message_rows(folder, "a100_dgx", ("NCCL(torch, cuda graph)",), per_node=1.0)
    sent = pairs.where(pairs.operation == "send_recv")
    port = np.max(sent.message_bytes / sent.measured_s)
    rows = every.where((every.n_ranks == 16) & (every.message_bytes >= LARGE_BYTES))
    rate = 2 * 15 / 16 * rows.message_bytes / rows.measured_s
    declared = multi_node_predictions("dgx-a100-80gb", 16, rows.message_bytes)
    one_port = multi_node_predictions("dgx-a100-80gb", 16, rows.message_bytes, links="1")
    off, shared = (predicted / rows.measured_s - 1 for predicted in (declared, one_port))
    lines = [
        f"a100_dgx, 16 GPUs in two nodes, {m / 1e6:6.1f} MB: measured {1e3 * t:7.2f} ms ({b / 1e9:4.1f} GB/s), "
        f"predicted {1e3 * d:6.2f} ms, {100 * e:+.0f} %; {100 * s:+.0f} % if each node had one port"
        for m, t, b, d, e, s in zip(
            rows.message_bytes, rows.measured_s, rate, declared, off, shared, strict=True
        )
    ]
    # Neighbouring sizes have nearly the same bandwidth; what they differ by is noise.
    order = np.argsort(rows.message_bytes)
    noise = np.abs(np.diff(np.log(rate[order])))
    lines.append(
        f"a100_dgx, mean {100 * off.mean():+.0f} % ({100 * shared.mean():+.0f} % with one port), mean error "
        f"{100 * np.abs(off).mean():.0f} % ({100 * np.abs(shared).mean():.0f} %); neighbouring sizes differ "
        f"in bandwidth by {100 * np.median(noise):.0f} % (median) and {100 * np.expm1(noise.max()):.0f} % (most): "
        "two speeds. These are not the nodes of the data sheet: one GPU sends to the other node at "
        f"{port / 1e9:.1f} GB/s at most, where a port has 25 GB/s, and eight GPUs have no more than three times that"
    )
    return lines


def fabric_tables(folder: Path) -> list[str]:
    """Lines with all errors [%]; FileNotFoundError without tables."""
    lines = ["errors of collectives, mean of |predicted / measured - 1| in %"]
    for source in FABRICS:
        lines += _intra_node(folder, source)
    return lines + between_nodes_table(folder)
