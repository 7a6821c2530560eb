"""Measures a few rows into the folder that is given; run as a script, since it sets threads of its process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from little_wish import little_wish

from simulator.measuring.operator_rows import measure_operators, operator_tasks
from simulator.measuring.run_tasks import DecoderSize, RunTask
from simulator.measuring.runs import measure_runs
from simulator.measuring.session import opened
from simulator.measuring.shapes import Limits
from simulator.measuring.timing import Effort

SIZE = DecoderSize(n_layers=2, hidden=256, heads=4, ffn=1024, vocab=2048)
SHORT = Effort(repeat_s=0.0005, budget_s=0.002, least=3, most=5, rounds=1)
STEPS = Effort(repeat_s=0.001, budget_s=0.2, least=5, most=9, rounds=2)


def main(folder: Path) -> None:
    """Measure operators without gradients and three runs; prints the counts."""
    import torch

    wish = little_wish(folder, processes=1, rows=105)
    machine = opened(wish)
    limits = Limits(flop=1e8, elements=3e5, rows=wish.rows)
    # Streams are a few percent of these models: a calibration borrows them, as the flow says.
    tasks = [
        task
        for task in operator_tasks(wish.dtypes, limits, groups=False)
        if task.table != "kernels_elementwise"
    ]
    with torch.no_grad():
        counts = measure_operators(folder, machine, tasks, SHORT, patience_s=0.0)
    runs = [
        RunTask(
            size=SIZE, phase=phase, mode="eager", strategy="single", dtype="fp32", seq_len=128, batch=batch
        )
        for phase, batch in (("prefill", 2), ("train", 2), ("decode", 4))
    ]
    measure_runs(folder, machine, runs, STEPS, patience_s=0.0)
    products = sum(task.table == "kernels_gemm" for task in tasks)
    sys.stdout.write(json.dumps({"operators": counts, "others": len(tasks) - products}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
