"""Whole runs: prompts, training steps and decode steps of small decoders, timed and their peak memory taken."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from simulator.measuring.device_clock import clock_of, pulse_in
from simulator.measuring.energy_counter import counter_of, step_energy_j
from simulator.measuring.machine import Machine
from simulator.measuring.operators import TORCH_TYPES
from simulator.measuring.peak_memory import kept_bytes, peak_bytes
from simulator.measuring.quiet import Pulse, quality_of
from simulator.measuring.run_tasks import RunTask
from simulator.measuring.table_file import GrowingTable
from simulator.measuring.timing import VOUCHED_S, Clock, Effort, Timing, timed
from simulator.measuring.transformer import Decoder, empty_caches

__all__ = ["RUN_COLUMNS", "Prepared", "measure_runs", "prepared", "run_row", "runs_in"]

MILLI, MICRO, MIB = 1e-3, 1e-6, 2.0**20
NAMES = (
    "id",
    "phase",
    "mode",
    "strategy",
    "dtype",
    "seq_len",
    "batch",
    "processes",
    "n_layers",
    "hidden",
    "heads",
    "ffn",
    "vocab",
)
RUN_COLUMNS = (
    *NAMES,
    "device",
    "framework",
    "version",
    "source",
    "machine",
    "measured_ms",
    "measured_peak_memory_mib",
    "energy_j",
    "spread",
    "repeats",
    "waited_share",
    "reference_us",
    "quality",
)
CLIP = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run ready to be timed: a step, the tensors that live before it and bytes beside them, and its modules."""

    step: Callable[[], object]
    held: Callable[[], Iterable[Any]]
    modules: Callable[[], Iterable[Any]] = tuple
    kept_bytes: int = 0


def _compiled(model: Any, mode: str) -> Any:
    return torch.compile(model, dynamic=False) if mode == "compile" else model


def _training(task: RunTask, model: Any, device: str, wrap: Callable[[Any], Any]) -> Prepared:
    # Replicas keep buckets of gradients that no tensor of the model shows.
    spread, kept = kept_bytes(lambda: wrap(model)) if device == "cpu" else (wrap(model), 0)
    wrapped = _compiled(spread, task.mode)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)
    batch = task.batch // task.processes
    tokens, targets = (
        torch.randint(0, task.size.vocab, (batch, task.seq_len), device=device) for _ in range(2)
    )

    def step() -> object:
        logits = wrapped(tokens)
        loss = functional.cross_entropy(logits.view(-1, task.size.vocab), targets.view(-1))
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return None

    def held() -> Iterator[Any]:
        yield from (tokens, targets, *model.parameters())
        for state in optimizer.state.values():
            yield from (value for value in state.values() if torch.is_tensor(value))

    eager = task.mode == "eager" and task.strategy == "single"
    modules = model.modules if eager else tuple
    return Prepared(step=step, held=held, modules=modules, kept_bytes=kept)


def _inference(task: RunTask, model: Any, device: str) -> Prepared:
    model.eval()
    run = _compiled(model, task.mode)
    decode = task.phase == "decode"
    tokens = torch.randint(0, task.size.vocab, (task.batch, 1 if decode else task.seq_len), device=device)
    caches = (
        empty_caches(task.size, task.batch, task.seq_len + 1, TORCH_TYPES[task.dtype], device)
        if decode
        else []
    )

    def step() -> object:
        with torch.no_grad():
            if decode:
                return run(tokens, caches, task.seq_len)
            kept: list[list[Any]] = [[] for _ in range(task.size.n_layers)]
            return run(tokens, kept, 0), kept

    def held() -> Iterator[Any]:
        yield from (tokens, *model.parameters())
        for pair in caches:
            yield from pair

    return Prepared(step=step, held=held, modules=model.modules if task.mode == "eager" else tuple)


def prepared(task: RunTask, device: str, wrap: Callable[[Any], Any] = lambda model: model) -> Prepared:
    """Build a run.

    Parameters
    ----------
    task : RunTask
        Which.
    device : str
        PyTorch device.
    wrap : callable
        What spreads the model over ranks.

    Returns
    -------
    Prepared
        One step does all that a loop repeats; a decode step overwrites the same place of its cache.

    Raises
    ------
    RuntimeError
        If memory runs out.
    """
    torch.manual_seed(0)
    model = Decoder(task.size, task.seq_len + 1).to(device=device, dtype=TORCH_TYPES[task.dtype])
    if task.phase == "train":
        return _training(task, model, device, wrap)
    return _inference(task, model, device)


@contextmanager
def _no_pauses() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_row(
    task: RunTask, machine: Machine, timing: Timing, peak: int | None, energy_j: float | None = None
) -> dict[str, Any]:
    """A row of the table; peak memory [byte] and energy [J] are None where they are not known. Raises nothing."""
    return {
        **task.columns(),
        "device": machine.name,
        "framework": "pytorch",
        "version": machine.torch,
        "source": "llmsim measure",
        "machine": machine.id,
        "measured_ms": f"{timing.seconds / MILLI:.6g}",
        "measured_peak_memory_mib": None if peak is None else f"{peak / MIB:.6g}",
        "energy_j": None if energy_j is None else f"{energy_j:.6g}",
        "spread": f"{timing.spread:.4f}",
        "repeats": timing.repeats,
        "waited_share": f"{timing.waited_share:.4f}",
        "reference_us": f"{timing.reference_s / MICRO:.6g}",
        "quality": quality_of(timing.quality, timing.waited_share),
    }


def runs_in(folder: Path) -> GrowingTable:
    """The growing table of runs in a folder, opened; SpecError for a file that cannot be continued."""
    table = GrowingTable(folder / "measured_runs.csv", RUN_COLUMNS, ("id",))
    table.open()
    return table


@dataclass(frozen=True, slots=True)
class _Beating:
    """A clock that does not count the beats inside of a step."""

    clock: Clock
    pulse: Pulse

    def repeat(self, call: Callable[[], object], calls: int) -> tuple[float, float]:
        """Seconds of ``calls`` calls without those beats, and those waited for a core [s]."""
        before = self.pulse.spent_s
        seconds, waited = self.clock.repeat(call, calls)
        return seconds - (self.pulse.spent_s - before), waited


@contextmanager
def _beats_inside(ready: Prepared, pulse: Pulse) -> Iterator[None]:
    """Let the reference beat between the modules of a long step, forward and backward."""

    def before(module: Any, given: Any) -> None:
        pulse.inside()

    def behind(module: Any, given: Any, made: Any) -> None:
        if made.requires_grad:
            made.register_hook(lambda gradient: pulse.inside())

    leaves = [module for module in ready.modules() if not list(module.children())]
    hooks = [leaf.register_forward_pre_hook(before) for leaf in leaves]
    hooks += [leaf.register_forward_hook(behind) for leaf in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def time_run(ready: Prepared, machine: Machine, effort: Effort, pulse: Pulse) -> Timing:
    """Timing of a step after two steps of warm-up; RuntimeError if the step fails."""
    clock = clock_of(machine.device, machine.threads)
    with _no_pauses():
        long = machine.device == "cpu" and clock.repeat(ready.step, 1)[0] > VOUCHED_S
        if not long:
            return timed(ready.step, clock, effort, pulse, exact_waits=machine.exact_waits)
        with _beats_inside(ready, pulse):
            return timed(ready.step, _Beating(clock, pulse), effort, pulse, exact_waits=machine.exact_waits)


def _whole(step: Callable[[], object], device: str) -> Callable[[], object]:
    """A step that ends when the device is done."""
    if device != "cuda":
        return step

    def whole() -> object:
        step()
        torch.cuda.synchronize()
        return None

    return whole


def measure_runs(
    folder: Path,
    machine: Machine,
    tasks: Iterable[RunTask],
    effort: Effort,
    *,
    patience_s: float = 60.0,
    told: Callable[[str], None] = lambda text: None,
) -> dict[str, int]:
    """Measure the runs of one process that the folder's table does not have.

    Parameters
    ----------
    folder, machine, tasks, effort, patience_s, told
        As for `simulator.measuring.operator_rows.measure_operators`.

    Returns
    -------
    dict of str to int
        Rows "measured", "known" before, "failed" and "noisy" [1].

    Raises
    ------
    SpecError
        If the table cannot be continued.
    """
    table = runs_in(folder)
    quiet = {row["id"] for row in table.rows if row["quality"] != "noisy"}
    pulse, counter = pulse_in(folder, machine, patience_s), counter_of(machine.device)
    counts = dict.fromkeys(("measured", "known", "failed", "noisy"), 0)
    for task in tasks:
        if task.id in quiet:
            counts["known"] += 1
        else:
            try:
                ready = prepared(task, machine.device)
                timing = time_run(ready, machine, effort, pulse)
                energy_j = step_energy_j(counter, _whole(ready.step, machine.device), timing.seconds)
                peak = peak_bytes(ready.step, ready.held(), machine.device)
            except RuntimeError:
                counts["failed"] += 1
            else:
                table.put(run_row(task, machine, timing, peak, energy_j))
                counts["measured"] += 1
                del ready  # so that the next model starts from free memory
            if task.mode == "compile":
                torch.compiler.reset()
        told(task.id)
    counts["noisy"] = sum(row["quality"] == "noisy" for row in table.rows)
    return counts
