"""Rows of measured serving energy as decode steps, or as whole requests where the prompt is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.measured_tables.measured_table import Cell, Row
from simulator.validation.cases import Case, Quantity, RowReader, size_class_of
from simulator.validation.known_words import catalog_model, spelling, system_of
from workloads import load_model, parameters

__all__ = ["energy_case"]

MILLI = 1e-3
BILLION = 1e9
# Prompts of chats and questions are short beside the answers of these runs; the tables do not state them.
PROMPT_LENGTH = 256


def _task(reader: RowReader, batch: int) -> tuple[str, dict[str, Any], float]:
    """Kind and keys of the task, and the output tokens that its energy is shared among [1]."""
    row = reader.row
    output = row.number_of("avg_output_len") or 0.0
    prompt = row.count("isl")
    if prompt is not None:
        length = max(round(output), 1)
        keys = {"task.batch_size": batch, "task.prompt_length": prompt, "task.output_length": length}
        return "generation", keys, float(batch * length)
    prompt = int(reader.assumptions.get("prompt_length") or PROMPT_LENGTH)
    # In steady state requests are at all stages of their answers, half-way on average.
    reader.assumed["context"] = f"{prompt} + half of the output"
    return (
        "decode",
        {"task.batch_size": batch, "task.context_length": max(round(prompt + output / 2), 1)},
        float(batch),
    )


def energy_case(row: Row, assumptions: Mapping[str, Cell]) -> Case:
    """Turn a row of ``energy_serving`` into a case.

    Parameters
    ----------
    row : Row
        Typed cells.
    assumptions : mapping of str to value
        Values for fields that are blank; ``prompt_length`` for rows that do not state it [token].

    Returns
    -------
    Case
        Joules per output token of the accelerators alone, and the median time between tokens where it is
        stated. Sizes as in training.

    Raises
    ------
    SpecError
        If the catalog cannot be read.
    """
    reader = RowReader(row, assumptions)
    system, no_system = system_of(row.text("device"), row.text("source"))
    model, no_model = catalog_model(row.text("model"))
    for reason in (no_system, no_model):
        if reason:
            reader.skip(reason)
    text = row.text("precision")
    entry = spelling("precision", text)
    if entry is None or "skip" in entry:
        reader.skip(f"precision {text!r}: {(entry or {}).get('skip', 'is not in the table of spellings')}")
    if (row.count("dp") or 1) > 1:
        reader.skip("several replicas behind one queue are not modelled yet")
    tensor = reader.need_count("tp")
    devices = row.count("n_devices") or tensor
    if devices != tensor:
        reader.skip("the devices are not one tensor-parallel group")
    batch = max(round(row.number_of("batch") or 1.0), 1)
    kind, task, tokens = _task(reader, batch)
    stated = row.number_of("total_params_b")
    count = float(parameters(load_model(model))["total"]) if model else stated * BILLION if stated else None
    gap = row.number_of("itl_median_ms")
    quantities = [
        Quantity(
            name="energy_per_output_token",
            unit="J",
            measured=row.number_of("J_per_out_token"),
            column="energy_j",
            per=tokens,
        )
    ]
    if gap is not None:
        quantities.append(
            Quantity(
                name="inter_token_latency", unit="s", measured=gap * MILLI, column="time_per_output_token_s"
            )
        )
    keys: dict[str, Any] = {
        # The meters saw the accelerators only.
        "model": model,
        "system": system,
        "system.host_power": "0 W",
        "devices": devices,
        **task,
        "plan.tensor_parallel": tensor,
        "plan.precision": (entry or {}).get("recipe", "bf16"),
    }
    return Case(
        id=row.name,
        source=row.text("source") or "energy_serving",
        device=row.text("device"),
        stack=row.text("framework") or "unstated",
        dtype=str((entry or {}).get("dtype", text)),
        size_class=size_class_of(count),
        assumed=reader.assumed_text(),
        quantities=tuple(quantities),
        kind=kind,
        scenario={} if reader.reasons else keys,
        reasons=tuple(reader.reasons),
        # A static batch that does not fit was not what ran: the server queued part of it.
        must_fit=kind == "generation",
    )
