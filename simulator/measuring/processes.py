"""Several processes at once: collectives between them, operators that share the machine, and training over all."""

from __future__ import annotations

import gc
import math
import os
import socket
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

from hardware_specs.errors import Problem, ScenarioError
from simulator.measuring.allocator import keep_freed_memory
from simulator.measuring.device_clock import clock_of, pulse_in
from simulator.measuring.host_time import measure_host_time
from simulator.measuring.machine import Machine
from simulator.measuring.operator_rows import OperatorTask, measure_operators
from simulator.measuring.peak_memory import peak_bytes
from simulator.measuring.quiet import Pulse
from simulator.measuring.run_tasks import RunTask
from simulator.measuring.runs import prepared, run_row, runs_in
from simulator.measuring.shapes import collective_shapes
from simulator.measuring.table_file import GrowingTable
from simulator.measuring.timing import FEW, QUIET_ENOUGH, Clock, Effort, Repeat, Timing, robust_timing

__all__ = [
    "COLLECTIVE_COLUMNS",
    "measure_collectives",
    "measure_operators_together",
    "measure_parallel_runs",
    "spread_out",
]

MICRO = 1e-6
KEYS = ("op", "n_gpus", "bytes", "dtype")
COLLECTIVE_COLUMNS = (
    "device",
    "impl",
    "version",
    *KEYS,
    "source",
    "machine",
    "latency_us",
    "busbw_GBps",
    "topology",
    "gpus_per_node",
    "spread",
    "repeats",
    "reference_us",
    "quality",
)
LARGEST_BYTES = 2.0**26
REPEATS = 9
MOST_CALLS = 100  # of a repeat of exchanges
TINY_S = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What every process is told."""

    folder: Path
    machine: Machine
    port: int
    effort: Effort


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _enter(rank: int, orders: Orders) -> None:
    """Join the group, each process on its own core where the system lets it choose."""
    machine = orders.machine
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(orders.port))
    torch.set_num_threads(machine.threads)
    keep_freed_memory()
    if machine.device == "cpu" and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        own = cores[rank * machine.threads : (rank + 1) * machine.threads]
        if len(own) == machine.threads:
            os.sched_setaffinity(0, set(own))
    if machine.device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl" if machine.device == "cuda" else "gloo", rank=rank, world_size=machine.processes
    )


def _leave() -> None:
    """Leave the group together: one that goes first breaks the connections of the others."""
    gc.collect()  # replicas hold the group
    dist.barrier()
    dist.destroy_process_group()


def spread_out(
    worker: Callable[..., None], folder: Path, machine: Machine, effort: Effort, *more: Any
) -> None:
    """Run a worker in every process and wait for all.

    Parameters
    ----------
    worker : callable
        A function of a module: called with rank, orders and ``more``.
    folder, machine, effort
        As for `simulator.measuring.runs.measure_runs`.

    Raises
    ------
    ScenarioError
        If a process fails, with what it said last.
    """
    orders = Orders(folder=folder, machine=machine, port=_free_port(), effort=effort)
    try:
        multiprocessing.spawn(worker, args=(orders, *more), nprocs=machine.processes, join=True)
    except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
        last = str(error).strip().splitlines()[-1]
        rule = f"did not end well: {last}"
        fix = "check memory and the backend (gloo, NCCL); rows that are written stay, call again"
        raise ScenarioError(
            [Problem(path="--processes", value=str(machine.processes), rule=rule, fix=fix)]
        ) from None


def _exchange(op: str, size: int, device: str) -> Callable[[], object]:
    """One collective of ``size`` bytes as nccl-tests counts them."""
    whole = torch.ones(size // 4, device=device)
    part = torch.ones(size // 4 // dist.get_world_size(), device=device)
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(whole),
        "all_gather": lambda: gather(whole, part),
        "reduce_scatter": lambda: scatter(part, whole),
    }
    return calls[op]


def _together(
    call: Callable[[], object],
    clock: Clock,
    pulse: Pulse,
    repeats: int,
    *,
    calls: int = 1,
    agree: float = QUIET_ENOUGH,
) -> Timing:
    """Calls that all ranks make at the same moment: the slowest rank of each repeat counts.

    A rank waits for its own helper threads as well, which is part of the exchange: waits take no repeat out, and only
    a large share of them makes a row noisy.
    """
    samples, shares = [], []
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    for _ in range(2):
        call()
    for _ in range(repeats):
        dist.barrier()
        seconds, waited = clock.repeat(call, calls)
        # Behind the work itself: a core that waited for the other rank wakes slowly.
        reference = pulse.beat()
        slowest = torch.tensor((seconds, waited / max(seconds, TINY_S)), device=device)
        mean = torch.tensor((reference / dist.get_world_size(),), device=device)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        dist.all_reduce(mean)
        samples.append(Repeat(float(slowest[0]), 0.0, float(mean[0])))
        shares.append(float(slowest[1]))
    found = robust_timing(samples, calls, exact_waits=False, agree=agree)
    return replace(found, waited_share=statistics.fmean(shares))


def _exchanged(call: Callable[[], object], clock: Clock, pulse: Pulse, effort: Effort) -> Timing:
    """A row of collectives: several in a repeat, since one takes a quarter of a millisecond or four, as threads wake.

    That scatter is the exchange itself. So not repeats must agree to 10 %, but their mean must be known to it.
    """
    once = _together(call, clock, pulse, FEW)  # the same number on all ranks: the slowest counts
    calls = min(max(int(effort.budget_s / once.seconds), 1), MOST_CALLS)
    repeats = min(REPEATS, effort.most)
    return _together(call, clock, pulse, repeats, calls=calls, agree=QUIET_ENOUGH * math.sqrt(repeats))


def _pace(rank: int, orders: Orders) -> tuple[Clock, Pulse]:
    """The clock, and a pulse of each process; the first chooses the reference of all."""
    clock = clock_of(orders.machine.device, orders.machine.threads)
    if rank > 0:
        dist.barrier()
    pulse = pulse_in(orders.folder, orders.machine, 0.0)
    if rank == 0:
        dist.barrier()
    return clock, pulse


def _collectives(rank: int, orders: Orders, rows: int) -> None:
    _enter(rank, orders)
    machine = orders.machine
    clock, pulse = _pace(rank, orders)
    table = GrowingTable(orders.folder / "collectives.csv", COLLECTIVE_COLUMNS, KEYS)
    if rank == 0:
        table.open()
    dist.barrier()
    if rank > 0:
        table.open()
    known = table.known()
    dist.barrier()
    for shape in collective_shapes(machine.processes, rows, LARGEST_BYTES):
        if table.key(shape) in known:
            continue
        call = _exchange(str(shape["op"]), int(shape["bytes"]), machine.device)
        timing = _exchanged(call, clock, pulse, orders.effort)
        if rank == 0:
            table.add(_collective_row(shape, machine, timing))
    _leave()


def _collective_row(shape: dict[str, Any], machine: Machine, timing: Timing) -> dict[str, Any]:
    ranks, size = int(shape["n_gpus"]), int(shape["bytes"])
    passes = 2.0 if shape["op"] == "all_reduce" else 1.0
    return {
        **shape,
        "device": machine.name,
        "impl": "NCCL" if machine.device == "cuda" else "gloo",
        "version": machine.torch,
        "source": "llmsim measure",
        "machine": machine.id,
        "latency_us": f"{timing.seconds / MICRO:.6g}",
        "busbw_GBps": f"{passes * (ranks - 1) / ranks * size / timing.seconds / 1e9:.6g}",
        "topology": "host" if machine.device == "cpu" else "",
        "gpus_per_node": ranks,
        "spread": f"{timing.spread:.4f}",
        "repeats": timing.repeats,
        "reference_us": f"{timing.reference_s / MICRO:.6g}",
        "quality": timing.quality,
    }


def measure_collectives(folder: Path, machine: Machine, effort: Effort, rows: int) -> None:
    """Time all-reduce, all-gather and reduce-scatter between the processes.

    Parameters
    ----------
    folder, machine, effort
        As for `simulator.measuring.runs.measure_runs`.
    rows : int
        Of each operation [1].

    Raises
    ------
    RuntimeError
        If a process fails.
    """
    spread_out(_collectives, folder, machine, effort, rows)


def _operators(rank: int, orders: Orders, tasks: Sequence[OperatorTask], patience_s: float) -> None:
    _enter(rank, orders)
    # All processes do the same work at the same time; the rows of the first are kept.
    folder = orders.folder if rank == 0 else orders.folder / f".rank{rank}"
    folder.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    measure_operators(folder, orders.machine, tasks, orders.effort, patience_s=patience_s)
    measure_host_time(folder, orders.machine, patience_s=patience_s)
    dist.barrier()
    if rank > 0:
        rmtree(folder, ignore_errors=True)
    _leave()


def measure_operators_together(
    folder: Path, machine: Machine, tasks: Sequence[OperatorTask], effort: Effort, patience_s: float
) -> None:
    """Measure operators while every process measures the same: what each gets of caches and memory then.

    Parameters
    ----------
    folder, machine, tasks, effort, patience_s
        As for `simulator.measuring.operator_rows.measure_operators`.

    Raises
    ------
    RuntimeError
        If a process fails.
    """
    spread_out(_operators, folder, machine, effort, list(tasks), patience_s)


def _wrapped(strategy: str) -> Callable[[Any], Any]:
    if strategy == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel
    from torch.distributed.fsdp import fully_shard

    def shard(model: Any) -> Any:
        for layer in model.layers:
            fully_shard(layer)
        fully_shard(model)
        return model

    return shard


def _parallel_runs(rank: int, orders: Orders, tasks: Sequence[RunTask]) -> None:
    _enter(rank, orders)
    machine, effort = orders.machine, orders.effort
    clock, pulse = _pace(rank, orders)
    table = runs_in(orders.folder) if rank == 0 else None
    quiet = [{row["id"] for row in table.rows if row["quality"] != "noisy"} if table else set()]
    dist.broadcast_object_list(quiet)
    for task in tasks:
        if task.id in quiet[0]:
            continue
        ready = prepared(task, machine.device, _wrapped(task.strategy))
        timing = _together(ready.step, clock, pulse, effort.least)
        peak = None
        if task.strategy == "ddp" and (found := peak_bytes(ready.step, ready.held(), machine.device)):
            peak = found + ready.kept_bytes
        if table is not None:
            table.put(run_row(task, machine, timing, peak))
        del ready
    _leave()


def measure_parallel_runs(folder: Path, machine: Machine, tasks: Sequence[RunTask], effort: Effort) -> None:
    """Measure training steps over all processes that the folder's table does not have.

    Parameters
    ----------
    folder, machine, tasks, effort
        As for `simulator.measuring.runs.measure_runs`.

    Raises
    ------
    RuntimeError
        If a process fails.
    """
    spread_out(_parallel_runs, folder, machine, effort, list(tasks))
