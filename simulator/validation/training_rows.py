"""Rows of measured training runs as scenarios of one training step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hardware_specs import load_calibration, load_system
from simulator.measured_tables.measured_table import Cell, Row
from simulator.validation.cases import Case, Quantity, RowReader, size_class_of
from simulator.validation.known_words import Framework, framework_of, notes_of
from simulator.validation.machine_of_row import machine_keys
from simulator.validation.model_of_row import model_of
from simulator.validation.plan_of_row import degrees, precision, recompute, sharding, stage_layers, switches
from workloads import ModelSpec, parameters

__all__ = ["training_case"]

GIB = 2.0**30
BILLION = 1e9
FULL_ATTENTION = "MaxText pre-PR1988: full (non-causal) attention"


def _token_rate(row: Row, model: ModelSpec | None) -> float | None:
    """Tokens per second and device; where a row states only FLOP/s, by the count of FLOP that it says it has.

    One count is known: 6 FLOP for each parameter that is multiplied, and attention of all pairs (MaxText,
    maxtext_utils.py, before pull request 1988). What other sources count they do not say.
    """
    rate = row.number_of("measured_tokens_per_s_per_device")
    tera = row.number_of("measured_model_tflops_per_device")
    counted = row.text("flops_convention").startswith(FULL_ATTENTION)
    if rate is not None or tera is None or not counted or model is None or model.experts:
        return rate
    multiplied = parameters(model)["layers"] + model.vocab * model.hidden
    pairs = 2 * model.n_layers * model.heads * model.head_dim * (row.count("seq_len") or 0)
    return tera * 1e12 / (6.0 * (multiplied + pairs))


def _step_time(row: Row, keys: Mapping[str, Any], model: ModelSpec | None) -> Quantity:
    """Step time, from tokens per second where it is not stated."""
    step, rate = row.number_of("measured_step_time_s"), _token_rate(row, model)
    tokens = keys["task.sequence_length"] * keys["task.global_batch_size"]
    absent = "step_time is not stated" if step is None and rate is None else ""
    if step is None and rate is not None and tokens:
        step = tokens / (rate * float(row.count("n_accelerators") or 1))
    return Quantity(name="step_time", unit="s", measured=step, absent=absent, column="step_time_s")


def _quantities(
    row: Row, framework: Framework | None, keys: Mapping[str, Any], model: ModelSpec | None
) -> tuple[Quantity, ...]:
    """Step time, and peak memory where it is stated."""
    step, peak = _step_time(row, keys, model), row.number_of("measured_peak_memory_gib")
    if peak is None:
        return (step,)
    # A framework's own count leaves out the context; the figure of a device includes it.
    less = "" if framework is not None and framework.counts_context else "reserved_bytes"
    return step, Quantity(
        name="peak_memory", unit="GiB", measured=peak, column="peak_bytes", less=less, per=GIB
    )


def _parameters(row: Row, model: ModelSpec | None) -> float | None:
    """Parameters counted from the shapes, else as the row states them [1]."""
    if model is not None:
        return float(parameters(model)["total"])
    stated = row.number_of("params_b")
    return None if stated is None else stated * BILLION


def _not_modelled(reader: RowReader) -> None:
    """Reasons that no field can mend."""
    row = reader.row
    workload = row.text("workload") or "pretrain"
    if workload != "pretrain":
        reader.skip(f"workload {workload} is not modelled yet")
    if row.text("outcome") == "oom":
        reader.skip("the run ended out of memory")


def _calibration(
    reader: RowReader, framework: Framework | None, notes: Sequence[Mapping[str, Any]], system: str | None
) -> dict[str, str]:
    """The calibration of a row: an assumed one where its rows ran on this device, else that of the framework's runs.

    The notes may name a mode of the framework that has one of its own. Raises SpecError for an assumed name that is
    not known.
    """
    if system is None:
        return {}
    name = reader.assumptions.get("calibration")
    if name is not None:
        accelerator = load_system(system).accelerator.name
        if accelerator in load_calibration(str(name)).devices:
            # Kernels of the very machine: such a row is calibrated, not blind, and stands apart.
            reader.assumed["calibration"] = str(name)
            return {"system.calibration": str(name)}
    known = framework.calibrations if framework is not None else {}
    if system not in known:
        return {}
    found = known[system]
    for note in notes:
        found = note.get("calibrations", {}).get(found, found)
    return {"system.calibration": found}


def training_case(row: Row, assumptions: Mapping[str, Cell]) -> Case:
    """Turn a row of ``training_runs`` into a case.

    Parameters
    ----------
    row : Row
        Typed cells.
    assumptions : mapping of str to value
        Values for fields that are blank.

    Returns
    -------
    Case
        With a scenario, or with every reason why there is none. Step time in seconds and, where it is
        stated, peak memory in GiB. Sizes: small below 3e9 parameters, large above 30e9, medium between.

    Raises
    ------
    SpecError
        If the catalog cannot be read.
    """
    reader = RowReader(row, assumptions)
    framework = framework_of(row.text("framework"), row.text("date"))
    notes = notes_of(row.text("notes"))
    _not_modelled(reader)
    keys = machine_keys(reader)
    keys.update(_calibration(reader, framework, notes, keys.get("system")))
    keys.update(degrees(reader))
    keys.update(stage_layers(reader, framework, keys))
    sequence = reader.need_count("seq_len")
    model = model_of(reader, sequence)
    # What the row says of itself outweighs what its framework does.
    said = [{"precision": framework.precision}, *notes] if framework is not None else notes
    chosen, dtype = precision(reader, said)
    keys.update(switches(reader, framework, notes, keys["plan.tensor_parallel"]))
    keys.update(
        {
            "task.sequence_length": sequence,
            "task.global_batch_size": reader.need_count("global_batch"),
            "plan.micro_batch_size": reader.need_count("micro_batch"),
            **recompute(reader, keys, notes),
            "plan.precision": chosen,
        }
    )
    keys.update(sharding(reader, keys))
    if model is not None:
        keys["model"] = model.model_dump(mode="json")
    return Case(
        id=row.name,
        source=row.text("source") or re.sub(r"-\d+$", "", row.name),
        device=row.text("accelerator"),
        stack=row.text("framework"),
        dtype=dtype,
        size_class=size_class_of(_parameters(row, model)),
        assumed=reader.assumed_text(),
        quantities=_quantities(row, framework, keys, model),
        kind="training",
        scenario={} if reader.reasons else keys,
        reasons=tuple(reader.reasons),
    )
