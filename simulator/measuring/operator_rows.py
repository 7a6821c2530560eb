"""Measuring operators into tables: each row once, the noise beside it, and noisy rows again at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.measuring.device_clock import captured, clock_of, pulse_in
from simulator.measuring.machine import Machine
from simulator.measuring.operators import Bench
from simulator.measuring.quiet import quality_of
from simulator.measuring.shapes import Limits, attention_shapes, operator_shapes, product_shapes
from simulator.measuring.table_file import GrowingTable
from simulator.measuring.timing import Clock, Effort, Timing, timed

__all__ = ["NOISE", "OperatorTask", "TABLES", "measure_operators", "operator_tasks"]

MICRO = 1e-6
AGAIN_SHARE = 0.4  # of all rows that may be measured again in the same call
NOISE = ("spread", "repeats", "calls", "waited_share", "reference_us", "quality")
_HEAD = ("device", "framework", "version", "kernel", "source", "machine")
# Columns that say which row it is, by table.
TABLES: Mapping[str, tuple[str, ...]] = {
    "kernels_gemm": ("dtype", "batch", "m", "n", "k", "weights_rotated"),
    "kernels_attention": (
        "kind",
        "phase",
        "dtype",
        "kv_dtype",
        "batch",
        "q_len",
        "kv_len",
        "heads",
        "kv_heads",
        "head_dim",
    ),
    "kernels_elementwise": ("op", "dtype", "rows", "cols"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTask:
    """One row to measure: its table and its shape."""

    table: str
    shape: Mapping[str, Any]


def operator_tasks(dtypes: Sequence[str], limits: Limits, *, groups: bool) -> Iterator[OperatorTask]:
    """All rows, those of all families in turn, so that slow drift of the machine meets every family alike.

    Parameters
    ----------
    dtypes : sequence of str
        Types.
    limits : Limits
        Sizes and rows of each family.
    groups : bool
        Whether attention with shared key heads is measured.

    Yields
    ------
    OperatorTask
        Raises nothing.
    """
    families: list[list[OperatorTask]] = []
    for dtype in dtypes:
        products = ({**shape, "weights_rotated": True} for shape in product_shapes(dtype, limits))
        families.append([OperatorTask(table="kernels_gemm", shape=shape) for shape in products])
        for phase in ("prefill", "decode"):
            shapes = attention_shapes(dtype, phase, limits, groups=groups)
            families.append([OperatorTask(table="kernels_attention", shape=shape) for shape in shapes])
        elementwise = operator_shapes(dtype, limits)
        families.append([OperatorTask(table="kernels_elementwise", shape=shape) for shape in elementwise])
    total = [len(family) for family in families]
    order = sorted(
        ((place + 0.5) / total[f], f, place)
        for f, family in enumerate(families)
        for place in range(len(family))
    )
    yield from (families[f][place] for _, f, place in order)


class _Meter:
    """Times rows on one device, and how busy the machine was beside each."""

    def __init__(
        self, folder: Path, machine: Machine, effort: Effort, bench: Bench, *, graphs: bool, patience_s: float
    ) -> None:
        self.machine, self.effort, self.bench, self.graphs = machine, effort, bench, graphs
        self.exact = machine.exact_waits
        self.clock: Clock = clock_of(machine.device, machine.threads)
        self.pulse = pulse_in(folder, machine, patience_s)

    def time(self, task: OperatorTask) -> Timing:
        """Timing of a row beside the reference; RuntimeError if it cannot run."""
        makers = {
            "kernels_gemm": self.bench.product,
            "kernels_attention": self.bench.attention,
            "kernels_elementwise": self.bench.elementwise,
        }
        call = makers[task.table](task.shape)
        if self.graphs and self.machine.device == "cuda":
            call = captured(call)
        return timed(call, self.clock, self.effort, self.pulse, exact_waits=self.exact)


def _row(task: OperatorTask, machine: Machine, timing: Timing) -> dict[str, Any]:
    return {
        "device": machine.name,
        "framework": "pytorch",
        "version": machine.torch,
        "kernel": "",
        "source": "llmsim measure",
        "machine": machine.id,
        **task.shape,
        "latency_us": f"{timing.seconds / MICRO:.6g}",
        "spread": f"{timing.spread:.4f}",
        "repeats": timing.repeats,
        "calls": timing.calls,
        "waited_share": f"{timing.waited_share:.4f}",
        "reference_us": f"{timing.reference_s / MICRO:.6g}",
        "quality": quality_of(timing.quality, timing.waited_share),
    }


def table_in(folder: Path, name: str) -> GrowingTable:
    """The growing table of one kind in a folder, opened; SpecError for a file that cannot be continued."""
    columns = (*_HEAD, *TABLES[name], "latency_us", *NOISE)
    table = GrowingTable(folder / f"{name}.csv", columns, TABLES[name])
    table.open()
    return table


def measure_operators(
    folder: Path,
    machine: Machine,
    tasks: Iterable[OperatorTask],
    effort: Effort,
    *,
    graphs: bool = False,
    patience_s: float = 60.0,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:
    """Measure the rows that the folder's tables do not have, then the noisy ones once more.

    Parameters
    ----------
    folder : Path
        Of the tables.
    machine : Machine
        Whose rows they are.
    tasks : iterable of OperatorTask
        Rows.
    effort : Effort
        Time of each.
    graphs : bool
        CUDA only: time captured graphs, without the host's launches.
    patience_s : float
        Time to wait in all for a quiet machine [s].
    told : callable
        Called with a name after each row.

    Returns
    -------
    dict of str to int
        Rows "measured", "known" before, "again" (noisy ones), "failed" and "noisy" in the end [1].

    Raises
    ------
    SpecError
        If a table cannot be continued.
    """
    tables = {name: table_in(folder, name) for name in TABLES}
    known = {name: table.known() for name, table in tables.items()}
    noisy_before = {
        (name, table.key(row))
        for name, table in tables.items()
        for row in table.rows
        if row["quality"] == "noisy"
    }
    counts = dict.fromkeys(("measured", "known", "again", "failed", "noisy"), 0)
    cold_bytes = max(4.0 * machine.cache_bytes, 1.6e8)
    bench = Bench(machine.device, cold_bytes)
    meter = _Meter(folder, machine, effort, bench, graphs=graphs, patience_s=patience_s)
    noisy: list[tuple[OperatorTask, float]] = []
    counted = 0
    for task in tasks:
        counted += 1
        table = tables[task.table]
        if table.key(task.shape) in known[task.table]:
            counts["known"] += 1
            if (task.table, table.key(task.shape)) in noisy_before:
                noisy.append((task, float("inf")))
        else:
            try:
                row = _row(task, machine, meter.time(task))
            except RuntimeError:  # out of memory, or a shape that this device has no kernel for
                counts["failed"] += 1
            else:
                table.add(row)
                known[task.table].add(table.key(task.shape))
                counts["measured"] += 1
                if row["quality"] == "noisy":
                    noisy.append((task, float(row["spread"])))
        told(task.table)
    # A machine that is busy all the time would double every call: a part of its rows says so as well.
    for task, before in noisy[: math.ceil(AGAIN_SHARE * counted)]:
        row = _row(task, machine, meter.time(task))
        counts["again"] += 1
        if row["quality"] != "noisy" or float(row["spread"]) < before:
            tables[task.table].put(row)
    counts["noisy"] = sum(row["quality"] == "noisy" for table in tables.values() for row in table.rows)
    return counts
