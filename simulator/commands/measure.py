"""The command that times PyTorch on the user's own machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from simulator.commands.output import check_folder, emit


@contextmanager
def _bar(total: int, what: str) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda name: bar.update(task, advance=1)


def _told(counts: dict[str, int], what: str, file: str) -> None:
    words = {"measured": "measured", "known": "known before", "failed": "failed", "noisy": "noisy"}
    parts = [f"{counts[key]} {word}" for key, word in words.items() if counts.get(key)]
    emit(f"{what}: {', '.join(parts) or 'nothing to do'}; {file}")


def measure(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the tables; a second call resumes there.")
    ],
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, mps or xpu.")] = "cpu",
    run: Annotated[
        bool,
        typer.Option(
            "--run", help="Whole runs (prompts, training steps, decode steps) instead of operators."
        ),
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter rows: a minute or two.")] = False,
    dtype: Annotated[
        list[str], typer.Option(metavar="NAME", help="fp32, bf16 or fp16; may be repeated.")
    ] = [],  # noqa: B006
    mode: Annotated[
        list[str], typer.Option(metavar="NAME", help="With --run: eager or compile; may be repeated.")
    ] = [],  # noqa: B006
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads of each process; else all cores.")
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Processes at once: collectives between them, and DDP with --run."
        ),
    ] = 1,
    rows: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Rows of each family; a fit of all needs 100.")
    ] = None,
    graphs: Annotated[bool, typer.Option("--graphs", help="CUDA: time captured graphs.")] = False,
    patience: Annotated[
        float | None, typer.Option(min=0.0, metavar="S", help="Seconds to wait in all for a quiet machine.")
    ] = None,
) -> None:
    """Time PyTorch operators, or whole runs, on this machine.

    Then llmsim calibrate --data DIR makes a device, a system and a calibration of the operators, and llmsim validate
    --data DIR/measured_runs.csv predicts the runs from that alone. See docs/measure.md.
    """
    import os

    from simulator.measuring.torch_module import check_torch, chosen_device

    check_torch()
    check_folder(out)
    chosen = chosen_device(device)
    from simulator.measuring.session import (
        PATIENCE_S,
        ROWS,
        Wish,
        measured_operators,
        measured_runs,
        opened,
        rows_of,
        runs_of,
    )

    wish = Wish(
        folder=out,
        device=chosen,
        dtypes=tuple(dict.fromkeys(dtype)) or (("fp32",) if chosen == "cpu" else ("bf16", "fp32")),
        modes=tuple(dict.fromkeys(mode)) or ("eager",),
        threads=threads or max((os.cpu_count() or 1) // processes, 1),
        processes=processes,
        rows=rows or ROWS[quick],
        quick=quick,
        graphs=graphs,
        patience_s=PATIENCE_S[quick] if patience is None else patience,
    )
    machine = opened(wish)
    if run:
        with _bar(len(runs_of(wish)), "runs") as told:
            counts = measured_runs(wish, machine, told)
        _told(counts, "runs", str(out / "measured_runs.csv"))
    else:
        with _bar(rows_of(wish), "operators") as told:
            counts = measured_operators(wish, machine, told)
        _told(counts, "operators", str(out / "kernels_*.csv"))
    if chosen == "cpu" and not run:
        emit("Copies between host and device: none, a processor's memory is the host's.")
    if run and machine.energy_counter == "none":
        emit("Energy: none, this machine has no counter (RAPL, NVML) that can be read.")
    if counts.get("noisy"):
        emit(
            "Noisy rows were measured beside other work: call again when the machine is quiet, they are timed anew."
        )
