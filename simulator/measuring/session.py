"""One call of ``llmsim measure``: settings of the process, its machine's identity, and what is measured in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from hardware_specs.errors import Problem, ScenarioError
from simulator.measuring.allocator import keep_freed_memory
from simulator.measuring.machine import Machine, check_same, this_machine, write_machine
from simulator.measuring.operator_rows import measure_operators, operator_tasks
from simulator.measuring.run_tasks import RunTask, run_tasks
from simulator.measuring.shapes import Limits
from simulator.measuring.timing import Effort

__all__ = ["MODES", "Wish", "measured_operators", "measured_runs", "opened", "rows_of", "runs_of"]

MODES = ("eager", "compile")
TYPES = ("fp32", "bf16", "fp16")
# A quick row may take a few hundredths of a second, one of a long measurement a few tenths.
QUICK = Effort(repeat_s=0.003, budget_s=0.05, least=5, most=15, rounds=2)
LONG = Effort(repeat_s=0.005, budget_s=0.15, least=7, most=25, rounds=3)
QUICK_STEPS = Effort(repeat_s=0.01, budget_s=1.0, least=5, most=15, rounds=2)
LONG_STEPS = Effort(repeat_s=0.02, budget_s=2.0, least=5, most=20, rounds=2)
LONGEST_S = {True: 0.03, False: 0.3}
# A tenth more than a fit of all coefficients asks for: some rows will be noisy.
ROWS = {True: 115, False: 180}
TRANSFERS = {True: 6, False: 12}  # sizes of each direction
PATIENCE_S = {True: 20.0, False: 300.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asked for.

    Attributes
    ----------
    folder : Path
        Of the tables.
    device : str
        PyTorch device.
    dtypes, modes : tuple of str
        Types; eager, compile.
    threads, processes, rows : int
        Of each process, at once, and of each family of operators [1].
    quick, graphs : bool
        Fewer and shorter rows; CUDA graphs.
    patience_s : float
        Time to wait in all for a quiet machine [s].
    """

    folder: Path
    device: str
    dtypes: tuple[str, ...]
    modes: tuple[str, ...]
    threads: int
    processes: int
    rows: int
    quick: bool
    graphs: bool
    patience_s: float


def _compilers() -> tuple[str, ...]:
    """What torch.compile may call on a processor."""
    named = os.environ.get("CXX")
    return (named,) if named else ("g++", "clang++", "c++")


def _check(wish: Wish, cores: int) -> None:
    problems = [
        Problem(path="--dtype", value=name, rule="is not measured", fix=f"use {', '.join(TYPES)}")
        for name in wish.dtypes
        if name not in TYPES
    ]
    problems += [
        Problem(path="--mode", value=name, rule="is no way to run PyTorch", fix=f"use {' or '.join(MODES)}")
        for name in wish.modes
        if name not in MODES
    ]
    if "compile" in wish.modes and wish.device == "cpu" and not any(map(which, _compilers())):
        rule, fix = (
            "needs a C++ compiler, and none is installed",
            "install g++ or clang++, or name one in CXX",
        )
        problems.append(Problem(path="--mode", value="compile", rule=rule, fix=fix))
    if wish.graphs and wish.device != "cuda":
        rule, fix = "are of CUDA alone", "leave --graphs out, or use --device cuda"
        problems.append(Problem(path="--graphs", value=wish.device, rule=rule, fix=fix))
    if wish.device == "cpu" and wish.threads * wish.processes > cores:
        problems.append(
            Problem(
                path="--threads",
                value=str(wish.threads),
                rule=f"times {wish.processes} processes is more than the {cores} cores of this machine",
                fix=f"use at most {max(cores // wish.processes, 1)}",
            )
        )
    if problems:
        raise ScenarioError(problems)


def opened(wish: Wish) -> Machine:
    """Set this process up and write the machine's identity into the folder.

    Parameters
    ----------
    wish : Wish
        Checked here.

    Returns
    -------
    Machine
        The same as before where the folder has one.

    Raises
    ------
    ScenarioError
        If a type or mode is unknown, or more threads are asked for than there are cores.
    SpecError
        If the folder holds rows of another machine or of other settings.
    """
    import torch

    _check(wish, os.cpu_count() or 1)
    torch.set_num_threads(wish.threads)
    if wish.device == "cpu" and hasattr(os, "sched_setaffinity") and wish.processes == 1:
        cores = sorted(os.sched_getaffinity(0))
        # The first core serves most interrupts.
        os.sched_setaffinity(0, set(cores[-wish.threads :]))
    allocator = keep_freed_memory() if wish.device == "cpu" else "PyTorch's caching allocator"
    machine = this_machine(wish.device, threads=wish.threads, processes=wish.processes, allocator=allocator)
    check_same(wish.folder, machine)
    write_machine(wish.folder, machine)
    return machine


def _limits(wish: Wish, machine: Machine) -> Limits:
    """Work that fits into the time of a row, from the rate of a small product on this device."""
    import time

    import torch

    side = 512
    x = torch.rand(side, side, device=wish.device)
    seconds = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        (x @ x).sum().item()
        seconds = min(seconds, time.perf_counter() - start)
    rate = 2.0 * side**3 / seconds
    return Limits(
        flop=rate * LONGEST_S[wish.quick],
        elements=min(4e6 if wish.quick else 1.6e7, machine.memory_bytes / 200.0),
        rows=wish.rows,
    )


def measured_operators(wish: Wish, machine: Machine, told: Callable[[str], None]) -> dict[str, int]:
    """Measure operators, and collectives with several processes; counts as `measure_operators` gives them.

    Raises SpecError for a table that cannot be continued, RuntimeError if a process fails.
    """
    import torch

    from simulator.measuring.host_time import measure_host_time
    from simulator.measuring.transfers import measure_transfers

    effort = QUICK if wish.quick else LONG
    tasks = list(operator_tasks(wish.dtypes, _limits(wish, machine), groups=wish.device != "cpu"))
    if wish.processes > 1:
        from simulator.measuring.processes import measure_collectives, measure_operators_together

        measure_operators_together(wish.folder, machine, tasks, effort, wish.patience_s)
        measure_collectives(wish.folder, machine, effort, 12 if wish.quick else 24)
        return {"measured": len(tasks)}
    with torch.no_grad():
        counts = measure_operators(
            wish.folder, machine, tasks, effort, graphs=wish.graphs, patience_s=wish.patience_s, told=told
        )
    measure_host_time(wish.folder, machine, patience_s=wish.patience_s)
    transfers = measure_transfers(
        wish.folder, machine, effort, TRANSFERS[wish.quick], patience_s=wish.patience_s
    )
    return counts if transfers is None else {**counts, "transfers": transfers}


def rows_of(wish: Wish) -> int:
    """Rows of operators that a wish asks for [1]; raises nothing."""
    limits = Limits(flop=1e9, elements=1e6, rows=wish.rows)
    return len(list(operator_tasks(wish.dtypes, limits, groups=False)))


def runs_of(wish: Wish) -> Sequence[RunTask]:
    """Whole runs that a wish asks for; raises nothing."""
    return list(
        run_tasks(
            wish.dtypes,
            wish.modes,
            quick=wish.quick,
            processes=wish.processes,
            strategies=("ddp", "fsdp"),
        )
    )


def measured_runs(wish: Wish, machine: Machine, told: Callable[[str], None]) -> dict[str, int]:
    """Measure whole runs; counts as `simulator.measuring.runs.measure_runs` gives them.

    Raises SpecError for a table that cannot be continued, RuntimeError if a process fails.
    """
    effort = QUICK_STEPS if wish.quick else LONG_STEPS
    tasks = runs_of(wish)
    if wish.processes > 1:
        from simulator.measuring.processes import measure_parallel_runs

        measure_parallel_runs(wish.folder, machine, tasks, effort)
        return {"measured": len(tasks)}
    from simulator.measuring.runs import measure_runs

    return measure_runs(wish.folder, machine, tasks, effort, patience_s=wish.patience_s, told=told)
