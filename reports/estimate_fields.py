"""Reading an estimate's mapping: numbers that may be missing, names of the scenario, classes of operators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = [
    "Rows",
    "axis_suffix",
    "number",
    "operator_class",
    "operator_label",
    "part_rows",
    "plan_text",
    "scenario_text",
    "shorten",
]

Rows = list[dict[str, Any]]

_LONGEST_NAME = 26
_COMPUTE_PHASES = frozenset({"forward", "recompute", "backward"})
# Words in stream, kind, module and name, tried in this order: the first class with a hit wins.
_COMMUNICATION_WORDS = (
    ("pipeline_p2p", ("pipeline", "p2p", "send", "recv", "stage")),
    ("tensor_parallel", ("tensor_parallel", "tensor", "tp_", "sequence_parallel")),
    ("context_parallel", ("context",)),
    ("expert_parallel", ("expert", "all_to_all")),
    ("data_parallel", ("data_parallel", "data", "dp_", "grad", "param", "zero")),
)
_PLAN_KEYS = (
    ("tensor_parallel", "TP"),
    ("pipeline_parallel", "PP"),
    ("virtual_pipeline", "VP"),
    ("data_parallel", "DP"),
    ("context_parallel", "CP"),
    ("expert_parallel", "EP"),
    ("zero_stage", "ZeRO"),
)


def number(mapping: Mapping[str, Any] | None, key: str) -> float:
    """``mapping[key]`` as a float; 0 where it is absent, null or NaN, since a missing part adds nothing."""
    value = (mapping or {}).get(key)
    if value is None or isinstance(value, str):
        return 0.0
    return 0.0 if math.isnan(float(value)) else float(value)


def part_rows(
    parts: Mapping[str, Any] | None, suffix: str, labels: Mapping[str, str], key: str, known: str
) -> Rows:
    """Parts of a whole as rows ``{key, label, known, fraction}``; names outside ``labels`` come last.

    Every labelled part has a row, also at zero, so that two tables can be laid side by side. ``fraction``
    is of the sum.
    """
    found = {
        name.removesuffix(suffix): number(parts, name) for name in (parts or {}) if name.endswith(suffix)
    }
    names = [*labels, *(name for name in found if name not in labels)]
    total = math.fsum(found.values())
    return [
        {
            key: name,
            "label": labels.get(name) or name.replace("_", " ").capitalize(),
            known: found.get(name, 0.0),
            "fraction": found.get(name, 0.0) / total if total else 0.0,
        }
        for name in names
    ]


def _name_of(value: Any, missing: str) -> str:
    """A name from a catalog name, a path, or an inline mapping."""
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("model_type") or missing
    return str(value or missing).rstrip("/").rsplit("/", 1)[-1]


def scenario_text(estimate: Mapping[str, Any]) -> str:
    """``"llama-3.1-70b training on dgx-h100, 64 devices"``: the words of every title."""
    scenario = estimate.get("scenario") or {}
    task = scenario.get("task") or {}
    kind = task.get("kind", "") if isinstance(task, Mapping) else str(task)
    devices = estimate.get("devices") or scenario.get("devices")
    count = f", {devices:,} device{'' if devices == 1 else 's'}" if devices else ""
    model = shorten(_name_of(scenario.get("model"), "model"), _LONGEST_NAME)
    system = shorten(_name_of(scenario.get("system"), "system"), _LONGEST_NAME)
    return f"{model} {kind} on {system}{count}".replace("  ", " ")


def plan_text(estimate: Mapping[str, Any]) -> str:
    """``"TP 8, PP 4, ZeRO 1, micro-batch 1, recompute selective, bf16"``; degrees of one are left out."""
    plan = (estimate.get("scenario") or {}).get("plan") or {}
    words = [
        f"{short} {plan[key]}"
        for key, short in _PLAN_KEYS
        if plan.get(key) not in (None, 0, 1) or (key == "zero_stage" and plan.get(key) == 1)
    ]
    if plan.get("micro_batch_size"):
        words.append(f"micro-batch {plan['micro_batch_size']}")
    if plan.get("recompute") not in (None, "none"):
        words.append(f"recompute {plan['recompute']}")
    if isinstance(plan.get("precision"), str):
        words.append(plan["precision"])
    return ", ".join(words)


def operator_class(operator: Mapping[str, Any]) -> str:
    """The class of the time table that an operator row belongs to.

    Decided by the phase; for communication by the words of stream, kind, module and name.
    """
    phase = str(operator.get("phase") or "forward")
    if phase in _COMPUTE_PHASES:
        return "compute"
    if phase != "communication":
        return phase
    for field in ("stream", "kind", "module", "name"):
        text = str(operator.get(field) or "").lower()
        for name, words in _COMMUNICATION_WORDS:
            if any(word in text for word in words):
                return name
    return "communication"


def operator_label(operator: Mapping[str, Any]) -> str:
    """``"mlp.up (backward)"``: module, name, and the phase where it is not the plain forward."""
    name, module = str(operator.get("name") or "operator"), str(operator.get("module") or "")
    if module and module not in name:
        name = f"{module}.{name}"
    phase = str(operator.get("phase") or "forward")
    return f"{name} ({phase})" if phase in ("backward", "recompute") and phase not in name else name


def axis_suffix(estimate: Mapping[str, Any]) -> str:
    """Whose time and bytes these are; one device of the slowest stage."""
    return "per step, one device of the slowest stage" if (estimate.get("devices") or 1) > 1 else "per step"


def shorten(text: str, limit: int) -> str:
    """Cut the middle of a long name: both ends of a dotted path tell more than its first half."""
    if len(text) <= limit:
        return text
    keep = limit - 2
    return f"{text[: keep - keep // 2]}..{text[len(text) - keep // 2 :]}"
