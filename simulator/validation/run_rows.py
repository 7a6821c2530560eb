"""Rows of whole runs that ``llmsim measure --run`` wrote, on the machine that was calibrated from its operators."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulator.measured_tables.measured_table import Cell, Row
from simulator.validation.cases import Case, Quantity, RowReader

__all__ = ["measured_run_case", "system_beside", "usual_reference_us"]

MILLI, MIB = 1e-3, 2.0**20
FUSION: Mapping[str, str] = {"eager": "eager", "compile": "fused"}
STRATEGIES: Mapping[str, int] = {"single": 0, "ddp": 0, "fsdp": 3}
TASKS: Mapping[str, str] = {"prefill": "prefill", "train": "training", "decode": "decode"}
SMALLEST_SPREAD = 0.10


def system_beside(table: Path, device: str) -> tuple[str | None, str]:
    """The system file that ``llmsim calibrate`` put beside a table, or None and how to get it; raises nothing."""
    file = table.parent / f"{device}-system.yaml"
    if file.is_file():
        return str(file), ""
    return None, f"no {file.name} beside the table: run llmsim calibrate there, or give --system FILE"


def usual_reference_us(table: Path) -> float | None:
    """Median time of the reference beside the operators of the same folder [us]; None where none is stated.

    The calibration is that of the machine at this pace. Raises ValueError for a cell that is no number.
    """
    found: list[float] = []
    for path in sorted(table.parent.glob("kernels_*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found += [float(row["reference_us"]) for row in csv.DictReader(file) if row.get("reference_us")]
    return statistics.median(found) if found else None


def _model(reader: RowReader, positions: int) -> dict[str, Any]:
    """The decoder of `simulator.measuring.transformer` with the row's sizes."""
    sizes = {name: reader.need_count(name) for name in ("n_layers", "hidden", "heads", "ffn", "vocab")}
    return {
        "name": "measured-decoder",
        **sizes,
        "max_positions": positions,
        "gated_mlp": False,
        "activation": "gelu",
        "norm": "layer",
        "positions": "learned",
        "separate_qkv": True,
    }


def _word(reader: RowReader, column: str, known: Mapping[str, Any]) -> Any:
    text = reader.row.text(column)
    if text not in known:
        reader.skip(f"{column} {text!r} is not one of {', '.join(known)}")
    return known.get(text)


def _times(row: Row, usual_us: float | None) -> list[Quantity]:
    """Step time at the pace of the calibration where the row states its own, and as it ran."""
    measured, reference = row.number_of("measured_ms"), row.number_of("reference_us")
    seconds = None if measured is None else measured * MILLI

    def quantity(name: str, measured_s: float | None) -> Quantity:
        return Quantity(name=name, unit="s", measured=measured_s, column="step_time_s")

    if seconds is None or not reference or not usual_us:
        return [quantity("step_time", seconds)]
    return [quantity("step_time", seconds * usual_us / reference), quantity("step_time_as_it_ran", seconds)]


def measured_run_case(
    row: Row,
    assumptions: Mapping[str, Cell],
    system: str | None,
    why_not: str,
    usual_us: float | None = None,
) -> Case:
    """Turn a row of ``measured_runs`` into a case.

    Parameters
    ----------
    row : Row
        Typed cells.
    assumptions : mapping of str to value
        Values for fields that are blank.
    system : str or None
        File or name of the system with its calibration.
    why_not : str
        Why there is none.
    usual_us : float, optional
        Time of the reference at the pace of the calibration [us].

    Returns
    -------
    Case
        Step time in seconds, at the pace of the calibration and as it ran, and peak memory in MiB as PyTorch's
        allocator counts it. Noisy rows, whose repeats lie further apart than 10 %, are a size class of their own.

    Raises
    ------
    SpecError
        If the system cannot be read.
    """
    reader = RowReader(row, assumptions)
    if system is None:
        reader.skip(why_not)
    phase, mode, strategy = row.text("phase"), row.text("mode"), row.text("strategy") or "single"
    kind, fusion = _word(reader, "phase", TASKS), _word(reader, "mode", FUSION)
    zero = STRATEGIES.get(strategy)
    if zero is None:
        reader.skip(f"strategy {strategy!r} is not one of {', '.join(STRATEGIES)}")
    sequence, batch = reader.need_count("seq_len"), reader.need_count("batch")
    ranks = row.count("processes") or 1
    keys: dict[str, Any] = {
        "model": _model(reader, max(sequence + 1, 1)),
        "system": system,
        "devices": ranks,
        "plan.precision": _precision(row.text("dtype")),
        "plan.kernel_fusion": fusion,
        "plan.free_gradients": strategy == "single" and phase == "train",
        "plan.data_parallel": ranks,
        "plan.zero_stage": zero,
        "plan.micro_batch_size": max(batch // ranks, 1),
    }
    if phase == "train":
        keys |= {"task.sequence_length": sequence, "task.global_batch_size": batch}
    elif phase == "decode":
        keys |= {"task.context_length": sequence, "task.batch_size": batch}
    else:
        keys |= {"task.prompt_length": sequence, "task.batch_size": batch, "task.logits": "all"}
    spread = row.number_of("spread") or 0.0
    noisy = spread > SMALLEST_SPREAD or row.text("quality") == "noisy"
    peak = row.number_of("measured_peak_memory_mib")
    quantities = _times(row, usual_us)
    if peak is not None:
        quantities.append(
            Quantity(
                name="peak_memory",
                unit="MiB",
                measured=peak,
                column="peak_bytes",
                less="reserved_bytes",
                per=MIB,
            )
        )
    label = phase if strategy == "single" else f"{phase} {strategy} {ranks}"
    return Case(
        id=row.name,
        source=row.text("source") or "measured_runs",
        device=row.text("device"),
        stack=" ".join(filter(None, (row.text("framework"), row.text("version"), mode))),
        dtype=row.text("dtype"),
        size_class=f"{label}, noisy" if noisy else label,
        assumed=reader.assumed_text(),
        quantities=tuple(quantities),
        kind=kind or "training",
        scenario={} if reader.reasons else keys,
        reasons=tuple(reader.reasons),
    )


def _precision(dtype: str) -> Any:
    """Types of a run: all tensors, gradients and moments too, have the type of the weights, as plain PyTorch does."""
    if dtype == "fp32":
        return "fp32"
    classes = ("weights", "activations", "kv_cache", "gradients", "optimizer", "communication")
    return {name: dtype for name in (*classes, "matmul", "attention")}
