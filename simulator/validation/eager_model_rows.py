"""Rows of whole models in eager PyTorch as forward passes, or forward and backward passes without an optimizer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from simulator.measured_tables.measured_table import Cell, Row
from simulator.validation.cases import Case, Quantity, RowReader
from simulator.validation.known_words import eager_word, system_of

__all__ = ["eager_model_case"]

MILLI = 1e-3
TRAINING = "train"
PHASES = {"inference": "forward", TRAINING: "forward_backward"}


def _model(reader: RowReader, name: str) -> Mapping[str, Any]:
    """Entry of the table of models; empty and a noted reason where there is none."""
    entry = eager_word("models", name)
    if entry is None:
        unknown = eager_word("not_modelled", name)
        reader.skip(f"model {name}: {unknown['reason']}" if unknown else f"model {name} is not in the table")
    return entry or {}


def _option(reader: RowReader) -> tuple[str, dict[str, Any], int]:
    """Stack, plan keys and devices [1] that a row's option stands for."""
    text = reader.row.text("option")
    entry = eager_word("options", text)
    if entry is None:
        reader.skip(f"option {text!r} is not in the table")
        return text, {}, 1
    keys, devices = dict(entry["keys"]), 1
    found = re.fullmatch(entry["pattern"], text)
    if "ways" in entry and found:
        devices = int(found[1])
        keys[entry["ways"]] = devices
    return str(entry["stack"]), keys, devices


def eager_model_case(row: Row, assumptions: Mapping[str, Cell]) -> Case:
    """Turn a row of ``models_e2e`` into a case.

    Parameters
    ----------
    row : Row
        Typed cells; ``batch`` counts sequences over all devices.
    assumptions : mapping of str to value
        Values for fields that are blank.

    Returns
    -------
    Case
        Seconds of a forward pass, or of forward and backward pass: the step without its optimizer. The size
        class is the phase, with the row's option.

    Raises
    ------
    SpecError
        If the catalog cannot be read.
    """
    reader = RowReader(row, assumptions)
    phase, dtype = row.text("phase"), row.text("dtype") or "fp32"
    if phase not in PHASES:
        reader.skip(f"phase {phase!r} is not one of {', '.join(PHASES)}")
    if dtype != "fp32":
        reader.skip(f"dtype {dtype!r}: only fp32 is described")
    system, unknown = system_of(row.text("device"))
    if system is None:
        reader.skip(unknown)
    entry = _model(reader, row.text("model"))
    stack, keys, devices = _option(reader)
    sequence, batch = reader.need_count("seq"), reader.need_count("batch")
    keys |= {
        "model": entry.get("model"),
        "system": system,
        "devices": devices,
        "plan.precision": "fp32",
        "plan.attention_kernel": "unfused",
    }
    calibration = eager_word("calibrations", system or "")
    if calibration is not None:
        keys["system.calibration"] = calibration
    training = phase == TRAINING
    if training:
        per_device = batch // int(keys.get("plan.data_parallel", 1))
        keys |= {"task.sequence_length": sequence, "task.global_batch_size": batch}
        keys["plan.micro_batch_size"] = max(per_device, 1)
    else:
        keys |= {"task.prompt_length": sequence, "task.batch_size": batch, "task.logits": entry.get("logits")}
    measured = row.number_of("measured_ms")
    return Case(
        id=row.name,
        source=row.text("source") or "models_e2e",
        device=row.text("device"),
        stack=stack,
        dtype=dtype,
        size_class=" ".join(word for word in (PHASES.get(phase, "unknown"), row.text("option")) if word),
        assumed=reader.assumed_text(),
        quantities=(
            Quantity(
                name=f"{PHASES.get(phase, 'unknown')}_time",
                unit="s",
                measured=None if measured is None else measured * MILLI,
                column="step_time_s",
                less="optimizer_s" if training else "",
                absent="measured_ms is blank" if measured is None else "",
            ),
        ),
        kind="training" if training else "prefill",
        scenario={} if reader.reasons else keys,
        reasons=tuple(reader.reasons),
    )
