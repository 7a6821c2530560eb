"""What the numbers of an estimate are made of, where that is a sum or a ratio of other numbers of the estimate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Data = Mapping[str, Any]

MOST_OPERATORS = 8
LIMITS = ("low", "high")  # of an interval, in the unit of its quantity
_COMPUTE_PHASES = ("forward", "recompute", "backward")
_UNITS = {
    "tokens_per_s": "token/s",
    "tokens_per_s_per_device": "token/s",
    "average_power_w_per_device": "W",
    "bytes_per_parameter": "B",
    "bytes_per_element": "B",
    "j_per_unit": "J",
    "seconds": "s",
}
_SUFFIXES = {
    "_flop_per_s": "FLOP/s",
    "_bytes_per_s": "B/s",
    "_bytes": "B",
    "_flop": "FLOP",
    "_hz": "Hz",
    "_s": "s",
    "_j": "J",
    "_w": "W",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a number: its path in the estimate, value and unit; parts of a sum add up to it."""

    path: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """How a number follows from others: a formula in words, and the numbers."""

    formula: str
    parts: tuple[Part, ...] = ()


def unit_of(name: str) -> str:
    """Unit that the last part of a name ends in; "1" for counts and ratios."""
    parent, _, last = name.rpartition(".")
    if last in LIMITS:
        return unit_of(parent)
    if last in _UNITS or last in ("flop", "bytes"):
        return _UNITS.get(last) or {"flop": "FLOP", "bytes": "B"}[last]
    return next((unit for ending, unit in _SUFFIXES.items() if last.endswith(ending)), "1")


def value_at(data: Data, path: str) -> Any:
    """Value at a dotted path of an estimate; an operator by its name. KeyError if there is none."""
    if path.startswith("operators."):
        return _operator_value(data, path.removeprefix("operators."))
    here: Any = data
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            raise KeyError(path)
        here = here[part]
    return here


def _operator_value(data: Data, name: str) -> Any:
    for row in data["operators"]:
        if row["name"] == name:
            return row
        column = name.removeprefix(f"{row['name']}.")
        if column != name and column in row:
            return row[column]
    raise KeyError(name)


def _parts(data: Data, *paths: str) -> tuple[Part, ...]:
    return tuple(Part(path=p, value=float(value_at(data, p)), unit=unit_of(p)) for p in paths)


def _sum_of(section: str, suffix: str, leave_out: tuple[str, ...] = ()) -> Callable[[Data], Composition]:
    def compose(data: Data) -> Composition:
        names = [n for n in data[section] if n.endswith(suffix) and n not in leave_out]
        names.sort(key=lambda n: -float(data[section][n]))
        where = " at the heaviest stage" if section == "memory" else ""
        return Composition(
            formula=f"sum of the parts{where}", parts=_parts(data, *(f"{section}.{n}" for n in names))
        )

    return compose


_memory = _sum_of("memory", "_bytes", ("capacity_bytes", "peak_bytes"))
_energy = _sum_of("energy", "_j")


def _step_time(data: Data) -> Composition:
    if data["scenario"]["task"]["kind"] != "generation":
        return _sum_of("time", "_s")(data)
    steps = data["scenario"]["task"]["output_length"] - 1
    each = _parts(data, "time_per_output_token_s") if data["time_per_output_token_s"] is not None else ()
    formula = f"first token + {steps:,} decode steps" if each else "first token"
    return Composition(formula=formula, parts=(*_parts(data, "time_to_first_token_s"), *each))


def _belongs(cause: str, row: Data) -> bool:
    if cause == "compute_s":
        return row["phase"] in _COMPUTE_PHASES
    if cause == "optimizer_s":
        return bool(row["phase"] == "optimizer")
    stream = {"pipeline_p2p_s": "pipeline"}.get(cause, cause.removesuffix("_s"))
    return bool(row["phase"] == "communication" and row["stream"] == stream)


def _operators(cause: str, data: Data) -> Composition:
    """Exposed time of the operators of one cause, the longest by name and the others as one part."""
    if cause == "bubble_s":
        return Composition(formula="pipeline time - micro-batches x slowest stage")
    rows = sorted((r for r in data["operators"] if _belongs(cause, r)), key=lambda r: -float(r["exposed_s"]))
    top, rest = rows[:MOST_OPERATORS], rows[MOST_OPERATORS:]
    parts = [Part(path=f"operators.{r['name']}", value=float(r["exposed_s"]), unit="s") for r in top]
    if rest:
        label = f"{len(rest)} other operators"
        parts.append(Part(path=label, value=sum(float(r["exposed_s"]) for r in rest), unit="s"))
    formula = (
        "exposed time of its operators on the slowest stage" if rows else "nothing of this kind in the step"
    )
    return Composition(formula=formula, parts=tuple(parts))


def _first_token(data: Data) -> Composition:
    kind = data["scenario"]["task"]["kind"]
    if data["time_to_first_token_s"] is None:
        return Composition(formula=f"a {kind} task has no first token")
    return Composition(formula="time of the prefill step")


def _output_token(data: Data) -> Composition:
    if data["time_per_output_token_s"] is None:
        return Composition(formula="no token follows the first in this task")
    if data["scenario"]["task"]["kind"] == "decode":
        return Composition(formula="the decode step", parts=_parts(data, "step_time_s"))
    return Composition(
        formula="(step_time_s - time_to_first_token_s) / (output_length - 1)",
        parts=_parts(data, "step_time_s", "time_to_first_token_s"),
    )


def _fits(data: Data) -> Composition:
    limits = [("memory.peak_bytes", "memory.capacity_bytes")]
    limits += [
        (f"offload.{tier}_bytes", f"offload.{tier}_capacity_bytes")
        for tier in ("host", "nvme")
        if data["offload"][f"{tier}_bytes"] > 0
    ]
    formula = " and ".join(f"{held} <= {capacity}" for held, capacity in limits)
    return Composition(formula=formula, parts=_parts(data, *(path for pair in limits for path in pair)))


def _per_device(data: Data) -> Composition:
    return Composition(formula="tokens_per_s / devices", parts=_parts(data, "tokens_per_s", "devices"))


def _power(data: Data) -> Composition:
    parts = _parts(data, "energy_j", "step_time_s", "devices")
    return Composition(formula="energy_j / (step_time_s x devices), hosts included", parts=parts)


def _text(formula: str) -> Callable[[Data], Composition]:
    return lambda data: Composition(formula=formula)


def _outside(data: Data) -> Composition:
    parts = _parts(data, "offload.host_bytes", "offload.nvme_bytes")
    return Composition(formula="what a device keeps outside its memory", parts=parts)


def _stored(where: str) -> Callable[[Data], Composition]:
    words = f"tensors that the plan keeps {where}, of one device at the stage that keeps most: plan.offload "
    return lambda data: Composition(formula=words + str(data["scenario"]["plan"]["offload"]))


# By path; the operators of a cause are under "time.<cause>".
COMPOSITIONS: Mapping[str, Callable[[Data], Composition]] = {
    "step_time_s": _step_time,
    "time": _sum_of("time", "_s"),
    "memory": _memory,
    "memory.peak_bytes": _memory,
    "energy": _energy,
    "energy_j": _energy,
    "tokens_per_s_per_device": _per_device,
    "energy.average_power_w_per_device": _power,
    "time_to_first_token_s": _first_token,
    "time_per_output_token_s": _output_token,
    "feasible": _fits,
    "devices": _text("devices of the scenario"),
    "memory.capacity_bytes": _text("memory of one accelerator"),
    "memory.heaviest_stage": _text("the pipeline stage with the most bytes per device"),
    "memory.reserved_bytes": _text("what the driver and the framework keep for themselves"),
    "offload": _outside,
    "offload.host_bytes": _stored("in host memory"),
    "offload.nvme_bytes": _stored("on drives"),
    "offload.host_capacity_bytes": _text("system.host_memory.capacity over the accelerators of a node"),
    "offload.nvme_capacity_bytes": _text("system.nvme.capacity over the accelerators of a node"),
    "memory.buffers_bytes": _text("largest working set of an operator, and unsharded layers under ZeRO"),
}


def composition_of(data: Data, path: str) -> Composition | None:
    """How the number at a path follows from others of the estimate, or None where one rule gives it."""
    if path in COMPOSITIONS:
        return COMPOSITIONS[path](data)
    if path.startswith("time."):
        return _operators(path.removeprefix("time."), data)
    if path.startswith("operators."):
        return _operator(data, path)
    if path.startswith("interval"):
        return _interval(data, path)
    if path.startswith("memory_parts"):
        return _memory_part(data, path)
    return None


def _memory_part(data: Data, path: str) -> Composition:
    """Of all owners, of one, or of one part."""
    _, _, inner = path.partition(".")
    owner, _, part = inner.partition(".")
    if part:
        return Composition(formula="bytes of this part on one device of the heaviest stage")
    if not owner:
        held = ((o, name) for o, parts in data["memory_parts"].items() for name in parts)
        names = tuple(f"memory_parts.{o}.{name}" for o, name in held)
        return Composition(formula="parts of activations and buffers", parts=_parts(data, *names))
    names = tuple(f"memory_parts.{owner}.{name}" for name in data["memory_parts"][owner])
    return Composition(formula=f"parts that sum to memory.{owner}_bytes", parts=_parts(data, *names))


def _interval(data: Data, path: str) -> Composition:
    """Of one quantity: itself and its limits; of a limit: itself. Times have a rule for their half-width."""
    _, _, inner = path.partition(".")
    quantity, _, limit = inner.partition(".")
    if not quantity:
        names = tuple(f"interval.{name}.{limit}" for name in data["interval"] or () for limit in LIMITS)
        return Composition(
            formula="lowest and highest value at the stated coverage", parts=_parts(data, *names)
        )
    if limit == "coverage":
        return Composition(formula="share of measured times that such intervals hold")
    own = "low = T / e^h, high = T x e^h; h is the half-width, in ln"
    if quantity == "tokens_per_s":
        own = "tokens of a step over the high and the low limit of interval.step_time_s"
    limits = tuple(f"interval.{quantity}.{name}" for name in LIMITS if not limit)
    return Composition(formula=own, parts=_parts(data, quantity, *limits))


def _operator(data: Data, path: str) -> Composition:
    value = value_at(data, path)
    if not isinstance(value, Mapping):
        return Composition(formula=f"the column {path.rsplit('.', 1)[-1]} of the operator's row")
    count, busy = float(value["count"]), float(value["busy_s"])
    if value["kind"] == "bubble" or not value["stream"]:
        return Composition(formula="see time.bubble_s")
    each = Part(path="time of one call", value=busy / count, unit="s")
    return Composition(
        formula="busy_s = count x time of one call; exposed_s = what no other stream hides",
        parts=(
            Part(path="busy_s", value=busy, unit="s"),
            Part(path="exposed_s", value=float(value["exposed_s"]), unit="s"),
            Part(path="count", value=count, unit="1"),
            each,
        ),
    )


def paths_of(estimate: Data) -> list[str]:
    """Paths that can be explained: totals, parts, and operators by name. Raises nothing."""
    aside = ("scenario", "operators", "llmsim_version", "reasons", "notes", "smallest_change")
    out: list[str] = []
    for key, value in estimate.items():
        if key not in aside:
            out.append(key)
            out += [f"{key}.{inner}" for inner in value] if isinstance(value, Mapping) else []
    for owner, parts in estimate["memory_parts"].items():
        out += [f"memory_parts.{owner}.{name}" for name in parts]
    for quantity, limits in (estimate["interval"] or {}).items():
        out += [f"interval.{quantity}.{name}" for name in limits]
    return out + [f"operators.{row['name']}" for row in estimate["operators"]]
