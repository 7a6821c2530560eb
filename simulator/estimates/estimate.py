"""The result of one scenario: totals, tables and reasons, frozen; and the function that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_specs import SystemSpec, fabric_calibration_for, load_calibration
from hardware_specs.errors import Problem, ScenarioError
from hardware_specs.kernel_fits import OPTIONAL, SIBLINGS
from simulator.arrays.columns import first_value
from simulator.certainty.evidence import FamilyEvidence, collective_evidence, kernel_evidence
from simulator.certainty.intervals import COVERAGE, bounds
from simulator.composition.evaluate import ENERGIES, TIMES, Detail, Totals, evaluate
from simulator.composition.memory import OWNERS, STAGES
from simulator.composition.memory_parts import memory_parts
from simulator.estimates.feasibility import reasons, smallest_change
from simulator.estimates.kind_notes import kind_notes
from simulator.estimates.operator_rows import detail_rows
from simulator.estimates.resolved import resolved_scenario
from simulator.machines.device import as_executed, calibration_of, compute_dtype
from simulator.rules import Recorder, at, recording
from simulator.scenarios.scenario import Scenario
from simulator.spaces.partition import Partition, Splitter
from simulator.spaces.refusals import refusals, way_out
from simulator.spaces.space import Space, space_from

if TYPE_CHECKING:
    import pandas as pd


def llmsim_version() -> str:
    """Version of the installed distribution, or "0+source" when run from a checkout."""
    try:
        return version("llmsim")
    except PackageNotFoundError:
        return "0+source"


# Operators beyond the fitted sizes that a note names; the table has them all.
SHOWN_BEYOND = 3


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one scenario costs.

    Attributes
    ----------
    step_time_s : float
        Training step, prefill, one decode step, or the whole request [s].
    tokens_per_s, tokens_per_s_per_device : float
        Prompt tokens in prefill, output tokens in decode and generation [token/s].
    time_to_first_token_s, time_per_output_token_s : float or None
        Where the task has them [s].
    mfu, hfu : float
        Model and hardware FLOP utilisation over the dense peak of the matmul type [1].
    memory, time, energy : mapping of str to value
        Bytes by owner at the heaviest stage, exposed seconds by cause, joules by cause; each sums to its total.
    memory_parts : mapping of str to mapping
        In training bytes of the activations by the module that makes them, and of the buffers by what they are for;
        each sums to its owner [byte].
    offload : mapping of str to float or None
        Bytes that a device keeps on host memory and on NVMe, and its share of what a node has [byte]; None where the
        system declares none.
    energy_j : float
        All used devices and their hosts, one step [J].
    feasible : bool
        Whether the plan fits in memory; the times hold either way.
    reasons, notes : tuple of str
        Why it does not fit; what a reader should know.
    smallest_change : str or None
        The smallest change of the plan that fits, where one was found.
    devices : int
        Accelerators in use [1].
    operator_rows : tuple of mapping
        Rows of the operator table.
    scenario : mapping
        The scenario with every default.
    interval : mapping or None
        By quantity its ``low``, ``high`` [unit of the quantity] and ``coverage`` [1]; None where no coefficient
        is used.
    """

    step_time_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    time_to_first_token_s: float | None
    time_per_output_token_s: float | None
    mfu: float
    hfu: float
    memory: Mapping[str, float | str]
    memory_parts: Mapping[str, Mapping[str, float]]
    offload: Mapping[str, float | None]
    time: Mapping[str, float]
    energy_j: float
    energy: Mapping[str, float]
    feasible: bool
    reasons: tuple[str, ...]
    smallest_change: str | None
    notes: tuple[str, ...]
    devices: int
    peak_flop_per_s: float
    memory_bandwidth_bytes_per_s: float
    operator_rows: tuple[Mapping[str, Any], ...] = field(repr=False)
    scenario: Mapping[str, Any] = field(repr=False)
    interval: Mapping[str, Mapping[str, float]] | None = None

    @cached_property
    def operators(self) -> pd.DataFrame:
        """The operator table as a frame; ``exposed_s`` sums to ``step_time_s`` [s]."""
        import pandas as pd

        return pd.DataFrame(list(self.operator_rows))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; ``llmsim run --format json`` prints exactly this."""
        return {
            "llmsim_version": llmsim_version(),
            "scenario": dict(self.scenario),
            "step_time_s": self.step_time_s,
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_device": self.tokens_per_s_per_device,
            "time_to_first_token_s": self.time_to_first_token_s,
            "time_per_output_token_s": self.time_per_output_token_s,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "memory": dict(self.memory),
            "memory_parts": {owner: dict(parts) for owner, parts in self.memory_parts.items()},
            "offload": dict(self.offload),
            "time": dict(self.time),
            "energy_j": self.energy_j,
            "energy": dict(self.energy),
            "feasible": self.feasible,
            "reasons": list(self.reasons),
            "smallest_change": self.smallest_change,
            "notes": list(self.notes),
            "operators": [dict(row) for row in self.operator_rows],
            "devices": self.devices,
            "peak_flop_per_s": self.peak_flop_per_s,
            "memory_bandwidth_bytes_per_s": self.memory_bandwidth_bytes_per_s,
            "interval": None if self.interval is None else {k: dict(v) for k, v in self.interval.items()},
        }


def _maybe(value: Any) -> float | None:
    number = first_value(value)
    return None if np.isnan(number) else number


def single_partition(space: Space) -> Partition:
    """The partition of a space's only row; ScenarioError with every broken rule if it is illegal."""
    splitter = Splitter(space)
    split = splitter.split(np.zeros(1, dtype=np.int64))
    if not split.partitions:
        raise ScenarioError(refusals(splitter, 0), way_out(space))
    return split.partitions[0]


def _kinds(partition: Partition) -> tuple[dict[str, str], dict[str, FamilyEvidence]]:
    """Compute type by peak class, and evidence by kernel family: none where no coefficient is used."""
    system, precision = partition.systems[0], partition.precisions[0]
    fallback = partition.graphical.fallback
    dtypes = {
        c: compute_dtype(system, getattr(precision, c), fallback) or "" for c in ("matmul", "attention")
    }
    if partition.graphical.fidelity != "calibrated":
        return {**dtypes, "vector": "fp32"}, {}
    task = "training" if partition.graphical.kind == "training" else "inference"
    calibration = calibration_of(system, "training" if task == "training" else "inference")
    fabric = fabric_calibration_for(system, "training" if task == "training" else "inference")
    tiers = [fabric.scale_up]
    if first_value(partition.inputs.plan.devices) > first_value(
        partition.inputs.fabric.accelerators_per_node
    ):
        tiers.append(fabric.scale_out)
    evidence = {
        **kernel_evidence(calibration, as_executed(precision, system, fallback), system.accelerator.name),
        "collective": collective_evidence(tiers),
    }
    return {**dtypes, "vector": "fp32"}, evidence


def _by_hand(partition: Partition) -> bool:
    """Whether the plan says the layers of stages."""
    plan = partition.inputs.plan
    ends = first_value(plan.first_stage_layers), first_value(plan.last_stage_layers)
    return bool(plan.stage_layers) or not np.all(np.isnan(ends))


def _notes(partition: Partition, totals: Totals, evidence: Mapping[str, FamilyEvidence]) -> list[str]:
    out: list[str] = []
    precision, system, device = partition.precisions[0], partition.systems[0], partition.inputs.device
    for operator_class in ("matmul", "attention"):
        wanted = getattr(precision, operator_class)
        used = compute_dtype(system, wanted, partition.graphical.fallback)
        if used != wanted:
            out.append(
                f"{operator_class} runs in {used}: {system.accelerator.name} has no units for {wanted}"
            )
    power = (
        first_value(totals.energy_j)
        / first_value(totals.step_time_s)
        / first_value(partition.inputs.plan.devices)
    )
    device_power = power - first_value(device.host_w_per_device)
    if device_power > first_value(device.power_limit_w):
        out.append(
            f"average device power {device_power:.0f} W is above the limit of "
            f"{first_value(device.power_limit_w):.0f} W: the clock would drop, and the step would take longer than "
            "shown"
        )
    if partition.graphical.fidelity == "calibrated":
        out += _calibration_notes(system, evidence)
    layers = partition.inputs.model.n_layers / partition.inputs.plan.pipeline_parallel
    if first_value(layers) != np.floor(first_value(layers)):
        where = "as the plan says" if _by_hand(partition) else "the extra ones on stages in the middle first"
        out.append(f"uneven stages: {first_value(layers):g} layers on average, {where}")
    plan = partition.inputs.plan
    by_hand = [first_value(n) for n in plan.stage_layers.values() if not np.isnan(first_value(n))]
    return out + kind_notes(partition.models[0], first_value(plan.pipeline_parallel), by_hand)


def _calibration_notes(system: SystemSpec, evidence: Mapping[str, FamilyEvidence]) -> list[str]:
    """What a result must say of coefficients that were not fitted to rows of its device."""
    name = system.accelerator.name
    named = load_calibration(system.calibration) if system.calibration is not None else None
    if named is not None and named.is_foreign(name):
        return [
            f"calibration {system.calibration} is of {', '.join(named.devices)}: on {name} its coefficients are "
            "assumed, with wider intervals"
        ]
    # Families that borrow from a similar one everywhere say nothing about this device.
    own = {
        family: known
        for family, known in evidence.items()
        if family not in SIBLINGS and family not in OPTIONAL
    }
    assumed = [family for family, known in own.items() if known.label == "assumed"]
    if len(assumed) <= len(own) / 2:
        return []
    measured = ", ".join(family for family in own if family not in assumed)
    return [
        f"of {name} only {measured} is calibrated: other coefficients are assumed"
        if measured
        else f"no calibration for {name}: coefficients are assumed from its generation"
    ]


def _intervals(totals: Totals) -> dict[str, dict[str, float]]:
    """By quantity its lowest and highest value at the stated coverage; the token rate mirrors the step."""
    times = {
        "step_time_s": (totals.step_time_s, totals.step_doubt),
        "time_to_first_token_s": (totals.time_to_first_token_s, totals.first_token_doubt),
        "time_per_output_token_s": (totals.time_per_output_token_s, totals.output_token_doubt),
    }
    found = {}
    for quantity, (seconds, doubt) in times.items():
        if _maybe(seconds) is not None:
            with at(f"interval.{quantity}"):
                low, high = bounds(seconds, doubt)
            found[quantity] = {"low": first_value(low), "high": first_value(high), "coverage": COVERAGE}
    step, tokens = found["step_time_s"], first_value(totals.tokens_per_s) * first_value(totals.step_time_s)
    found["tokens_per_s"] = {
        "low": tokens / step["high"],
        "high": tokens / step["low"],
        "coverage": COVERAGE,
    }
    return found


def _beyond(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note on operators whose sizes nobody fitted, the longest first."""
    outside = sorted((r for r in rows if r["beyond"]), key=lambda r: -float(r["exposed_s"]))
    if not outside:
        return []
    share = sum(r["exposed_s"] for r in outside) / sum(r["exposed_s"] for r in rows)
    shown = "; ".join(f"{r['name']}: {r['beyond']}" for r in outside[:SHOWN_BEYOND])
    more = f"; and {len(outside) - SHOWN_BEYOND} more" if len(outside) > SHOWN_BEYOND else ""
    return [
        f"extrapolated: operators that take {share:.0%} of the time have sizes outside the measured ones, so "
        f"intervals may be too narrow ({shown}{more})"
    ]


def _rows(
    partition: Partition,
    details: list[Detail],
    evidence: Mapping[str, FamilyEvidence],
    dtypes: Mapping[str, str],
) -> list[dict[str, Any]]:
    generation = partition.graphical.kind == "generation"
    rows: list[dict[str, Any]] = []
    for detail in details:
        prefix = f"{detail.name}." if generation else ""
        rows += detail_rows(detail, partition.inputs, prefix=prefix, dtypes=dtypes, evidence=evidence)
    # Plain numbers: what to_dict() holds is printed and written as it is.
    return [{k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()} for row in rows]


def _memory_parts(partition: Partition, details: Sequence[Detail]) -> Mapping[str, Mapping[str, float]]:
    """Parts of activations and buffers of a training step; empty for inference."""
    if partition.graphical.kind != "training":
        return {}
    (detail,) = details
    step = detail.step
    return memory_parts(
        partition.structure,
        partition.inputs,
        detail.blocks,
        detail.table,
        step.kinds,
        step.micro_batches,
        step.memory,
        tied=detail.tied,
    )


def _smallest_change(space: Space) -> str | None:
    """As the function it calls, whose own evaluations are kept out of an active recorder."""
    with recording():
        return smallest_change(space)


def estimate_space(space: Space) -> tuple[Estimate, Partition]:
    """Estimate the only row of a space; ScenarioError if it is illegal."""
    partition = single_partition(space)
    totals, details = evaluate(partition)
    dtypes, evidence = _kinds(partition)
    devices = int(first_value(partition.inputs.plan.devices))
    device = partition.inputs.device
    energy = {name: first_value(totals.energy[name]) for name in ENERGIES}
    feasible = bool(first_value(totals.feasible))
    rows = _rows(partition, details, evidence, dtypes)
    estimate = Estimate(
        step_time_s=first_value(totals.step_time_s),
        tokens_per_s=first_value(totals.tokens_per_s),
        tokens_per_s_per_device=first_value(totals.tokens_per_s) / devices,
        time_to_first_token_s=_maybe(totals.time_to_first_token_s),
        time_per_output_token_s=_maybe(totals.time_per_output_token_s),
        mfu=first_value(totals.mfu),
        hfu=first_value(totals.hfu),
        memory_parts=_memory_parts(partition, details),
        memory={
            "capacity_bytes": first_value(totals.capacity_bytes),
            "peak_bytes": first_value(totals.peak_bytes),
            "heaviest_stage": STAGES[int(first_value(totals.heaviest_stage))],
            **{f"{owner}_bytes": first_value(totals.memory[owner]) for owner in OWNERS},
        },
        offload={
            "host_bytes": first_value(totals.host_bytes),
            "nvme_bytes": first_value(totals.nvme_bytes),
            "host_capacity_bytes": _maybe(totals.host_capacity_bytes),
            "nvme_capacity_bytes": _maybe(totals.nvme_capacity_bytes),
        },
        time={name: first_value(totals.times[name]) for name in TIMES},
        energy_j=first_value(totals.energy_j),
        energy={
            **energy,
            "average_power_w_per_device": first_value(totals.energy_j)
            / first_value(totals.step_time_s)
            / devices,
        },
        feasible=feasible,
        reasons=() if feasible else tuple(reasons(totals)),
        smallest_change=None if feasible else _smallest_change(space),
        notes=(*_notes(partition, totals, evidence), *_beyond(rows)),
        devices=devices,
        peak_flop_per_s=first_value(device.matmul_flop_per_s),
        memory_bandwidth_bytes_per_s=first_value(device.memory_bandwidth_bytes_per_s),
        operator_rows=tuple(rows),
        interval=_intervals(totals) if evidence else None,
        scenario=resolved_scenario(space, partition),
    )
    return estimate, partition


def _several_values(space: Space) -> ScenarioError:
    fix = "give one value, or use llmsim sweep (Python: sweep)"
    return ScenarioError(
        [
            Problem(path=key, value="", rule=f"has {len(axis)} values, and one scenario has one", fix=fix)
            for axis in space.axes
            for key in axis.keys
        ]
    )


def simulate(scenario: Scenario | Mapping[str, Any] | str | Path) -> Estimate:
    """Estimate one scenario.

    Parameters
    ----------
    scenario : Scenario, mapping, str or Path
        A mapping may have dotted keys at its top level, which override; a path names a YAML file.

    Returns
    -------
    Estimate
        Times [s], memory [byte], energy [J] and the tables behind them. A plan that does not fit has
        ``feasible`` False and its times all the same.

    Raises
    ------
    ScenarioError
        With every mistake: wrong types, unknown keys, illegal combinations, or an axis (use ``sweep``).
    SpecError
        If a model, a system or a file cannot be read.
    """
    space = space_from(scenario)
    if space.axes:
        raise _several_values(space)
    return estimate_space(space)[0]


def simulate_recorded(
    scenario: Scenario | Mapping[str, Any] | str | Path,
) -> tuple[Estimate, Partition, Recorder]:
    """As :func:`simulate`, with the calls of all cost rules; raises the same errors."""
    space = space_from(scenario)
    if space.axes:
        raise _several_values(space)
    with recording() as recorder:
        estimate, partition = estimate_space(space)
    return estimate, partition, recorder
