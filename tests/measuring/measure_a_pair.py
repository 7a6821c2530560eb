"""Collectives and parallel training steps of two processes, the least of each; run as a script."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from little_wish import little_wish

from simulator.measuring.processes import measure_collectives, measure_parallel_runs
from simulator.measuring.run_tasks import DecoderSize, RunTask
from simulator.measuring.session import opened
from simulator.measuring.timing import Effort

SIZE = DecoderSize(n_layers=1, hidden=64, heads=2, ffn=128, vocab=256)
SHORT = Effort(repeat_s=0.001, budget_s=0.01, least=3, most=5, rounds=1)


def main(folder: Path) -> None:
    """Measure with two processes; prints how many there were."""
    wish = little_wish(folder, processes=2, rows=2)
    machine = opened(wish)
    measure_collectives(folder, machine, SHORT, 1)
    tasks = [
        RunTask(
            size=SIZE,
            phase="train",
            mode="eager",
            strategy=strategy,
            dtype="fp32",
            seq_len=32,
            batch=2,
            processes=2,
        )
        for strategy in ("ddp", "fsdp")
    ]
    measure_parallel_runs(folder, machine, tasks, SHORT)
    sys.stdout.write("\n" + json.dumps({"processes": machine.processes}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
