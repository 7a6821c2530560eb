"""Time of the host between operators: a chain of tiny ones in modules, less the same operators alone.

An operator that is timed alone finds its code in the nearest caches, and no module calls it. In a model others ran
before it. So each operator of the chain comes behind a stream through as many bytes as a core's private cache holds;
the stream alone is timed too, and taken off. All operators are tiny: no run of a model is measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from simulator.measuring.device_clock import clock_of, pulse_in
from simulator.measuring.machine import Machine
from simulator.measuring.operators import Bench
from simulator.measuring.table_file import GrowingTable
from simulator.measuring.timing import Effort, Timing, timed

__all__ = ["HOST_COLUMNS", "measure_host_time"]

MICRO = 1e-6
WIDTH, HEADS, CACHED = 64, 2, 64
HOST_COLUMNS = (
    "device",
    "version",
    "source",
    "machine",
    "round",
    "operators",
    "chain_us",
    "stream_us",
    "alone_us",
    "between_us",
    "spread",
    "reference_us",
    "quality",
)
ROUNDS = 5
LEAST_STREAM_BYTES = 2.0**17
STREAMS_BYTES = 1e8  # that streams are taken from in turn, more than a last-level cache keeps
CHAIN = Effort(repeat_s=0.004, budget_s=0.08, least=9, most=25, rounds=2)
Call = Callable[[], object]


def _in_modules(device: str) -> list[Call]:
    """The operators of a layer on one token, called as a model calls them."""
    x, wide = (torch.rand(1, 1, width, device=device) for width in (WIDTH, 4 * WIDTH))
    norm = nn.LayerNorm(WIDTH, bias=False).to(device)
    square, up, down = (
        nn.Linear(*sides, bias=False).to(device)
        for sides in ((WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))
    )
    attention = Bench(device, 1e6).attention(_attention())
    layer: list[Call] = [
        lambda: norm(x),
        *[lambda: square(x)] * 3,
        attention,
        lambda: square(x),
        lambda: x + x,
    ]
    return [
        *layer,
        lambda: norm(x),
        lambda: up(x),
        lambda: functional.gelu(wide),
        lambda: down(wide),
        lambda: x + x,
    ]


def _attention() -> Mapping[str, Any]:
    sizes = {"batch": 1, "q_len": 1, "kv_len": CACHED, "heads": HEADS, "kv_heads": HEADS}
    return {**sizes, "head_dim": WIDTH // HEADS, "dtype": "fp32"}


def _alone(device: str) -> list[tuple[Call, int]]:
    """The same operators as rows of tables have them, and how often the chain calls each."""
    bench = Bench(device, 1e6)

    def product(n: int, k: int) -> Call:
        return bench.product({"dtype": "fp32", "m": 1, "n": n, "k": k})

    def streamed(op: str, width: int) -> Call:
        return bench.elementwise({"op": op, "dtype": "fp32", "rows": 1, "cols": width})

    return [
        (streamed("ln", WIDTH), 2),
        (product(WIDTH, WIDTH), 4),
        (bench.attention(_attention()), 1),
        (streamed("add", WIDTH), 2),
        (product(4 * WIDTH, WIDTH), 1),
        (streamed("gelu", 4 * WIDTH), 1),
        (product(WIDTH, 4 * WIDTH), 1),
    ]


def _stream(device: str, size: float) -> Call:
    elements = int(max(size, LEAST_STREAM_BYTES)) // 4
    blocks = cycle(torch.rand(int(STREAMS_BYTES) // 4, device=device).split(elements)[:-1])
    return lambda: next(blocks).sum()


def _each(calls: Sequence[Call], before: Call) -> Call:
    def chain() -> object:
        for call in calls:
            before()
            call()
        return None

    return chain


def measure_host_time(folder: Path, machine: Machine, *, patience_s: float) -> int:
    """Measure the rounds that the folder's table does not have.

    Parameters
    ----------
    folder : Path
        Of the tables.
    machine : Machine
        A processor: devices with a queue of their own hide this time, and nothing is measured.
    patience_s : float
        Time to wait in all for the usual pace [s].

    Returns
    -------
    int
        Rounds measured [1].

    Raises
    ------
    SpecError
        If the table cannot be continued.
    """
    if machine.device != "cpu":
        return 0
    table = GrowingTable(folder / "host_time.csv", HOST_COLUMNS, ("round",))
    table.open()
    known = table.known()
    wanted = [number for number in range(ROUNDS) if (str(number),) not in known]
    if not wanted:
        return 0
    clock, pulse = clock_of(machine.device, machine.threads), pulse_in(folder, machine, patience_s)
    chain, stream = _in_modules(machine.device), _stream(machine.device, machine.private_cache_bytes)

    def time(call: Call) -> Timing:
        return timed(call, clock, CHAIN, pulse, exact_waits=machine.exact_waits)

    with torch.no_grad():
        for number in wanted:
            whole, bare = time(_each(chain, stream)), time(_each([lambda: None] * len(chain), stream))
            single = [(time(call), often) for call, often in _alone(machine.device)]
            table.put(_row(number, machine, len(chain), whole, bare, single))
    return len(wanted)


def _row(
    number: int,
    machine: Machine,
    operators: int,
    whole: Timing,
    bare: Timing,
    single: Sequence[tuple[Timing, int]],
) -> dict[str, Any]:
    """A round: all times at the pace of the chain."""
    pace = whole.reference_s
    stream_s = bare.seconds * pace / bare.reference_s
    alone_s = sum(often * one.seconds * pace / one.reference_s for one, often in single)
    between_s = max(whole.seconds - stream_s - alone_s, 0.0) / operators
    noisy = "noisy" in (whole.quality, bare.quality)
    return {
        "device": machine.name,
        "version": machine.torch,
        "source": "llmsim measure",
        "machine": machine.id,
        "round": number,
        "operators": operators,
        "chain_us": f"{whole.seconds / MICRO:.6g}",
        "stream_us": f"{stream_s / MICRO:.6g}",
        "alone_us": f"{alone_s / MICRO:.6g}",
        "between_us": f"{between_s / MICRO:.6g}",
        "spread": f"{max(whole.spread, bare.spread):.4f}",
        "reference_us": f"{pace / MICRO:.6g}",
        "quality": "noisy" if noisy else "ok",
    }
