"""What each term of the model takes off the error: measured runs scored with terms switched off one by one.

``python -m simulator.validation.ablation TABLE.csv --out docs/ablation.md`` writes the mean absolute error of the
step time by source, and how many points it rises without each term. A term is switched off in the scenario, in the
machine or in the sum of a step; nothing is fitted again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from simulator.arrays.columns import DeviceColumns, FabricColumns
from simulator.communication.wires import NO_WIRES
from simulator.composition.shared_wires import StageTraffic, stage_traffic
from simulator.machines.device import device_columns
from simulator.machines.fabric import fabric_columns
from simulator.measured_tables.measured_table import read_table
from simulator.validation.cases import Case
from simulator.validation.predictions import Prediction, predict
from simulator.validation.scoring import score, source_prefix
from simulator.validation.training_rows import training_case

__all__ = ["TERMS", "Ablated", "ablate", "main", "table_lines"]

MAKERS = "simulator.spaces.row_columns"
STEP = "simulator.composition.step"
OVERLAPS = (
    "plan.overlap_grad_reduce",
    "plan.overlap_param_gather",
    "plan.overlap_tensor_parallel",
    "plan.overlap_expert_parallel",
    "plan.overlap_shared_experts",
    "plan.overlap_pipeline_p2p",
)
WITHOUT_OVERLAP = {**dict.fromkeys(OVERLAPS, False), "plan.tensor_parallel_split": "none"}
EXCHANGES = (
    "tensor_parallel_s",
    "context_parallel_s",
    "expert_parallel_s",
    "data_parallel_s",
    "pipeline_p2p_s",
)
NO_FIXED_COST = ("fixed_s",)
HEADING = (
    "# What each term takes off the error",
    "",
    "Written by `python -m simulator.validation.ablation TABLE --out docs/ablation.md`, which scores measured training",
    "runs with terms of the model switched off one by one; nothing is fitted again. The first line is the mean of",
    "|predicted / measured - 1| of the step time in percent, by source (rows in brackets); the others are points that",
    "the error rises by without a term.",
)
READING = (
    "A term that is negative hides an error of another sign: where the source comes nearer to its runs without it,",
    "something else is too fast there. What many points hang on is what a source's figures rest on.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One term and how it is switched off.

    ``plan`` are keys that replace those of a scenario, ``drop`` keys that are left out of it, ``less`` result columns
    that are taken from the step [s]; ``device`` and ``fabric`` change the columns of machines, ``patched`` has what
    stands in for functions, by their path.
    """

    name: str
    plan: Mapping[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
    fidelity: str = "calibrated"
    device: Callable[[DeviceColumns], DeviceColumns] | None = None
    fabric: Callable[[FabricColumns], FabricColumns] | None = None
    patched: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def _without_fixed_costs(device: DeviceColumns) -> DeviceColumns:
    kernels = {
        family: {k: np.zeros_like(v) if k in NO_FIXED_COST else v for k, v in fit.items()}
        for family, fit in device.kernels.items()
    }
    return replace(device, kernels=kernels)


def _without_displaced_units(fabric: FabricColumns) -> FabricColumns:
    inner, outer = (
        replace(tier, compute_share=np.zeros_like(tier.compute_share))
        for tier in (fabric.inner, fabric.outer)
    )
    return replace(fabric, inner=inner, outer=outer)


def _empty_wires(*arguments: Any, **options: Any) -> StageTraffic:
    return replace(stage_traffic(*arguments, **options), hidden=NO_WIRES, own=NO_WIRES)


TERMS: tuple[Term, ...] = (
    Term(name="exchanges run beside compute", plan=WITHOUT_OVERLAP),
    Term(name="exchanges that compute waits for", less=EXCHANGES),
    Term(name="hidden exchanges take compute units", fabric=_without_displaced_units),
    Term(name="axes share wires", patched={f"{STEP}.stage_traffic": _empty_wires}),
    Term(name="waiting for other stages", less=("bubble_s",)),
    Term(name="optimizer update", less=("optimizer_s",)),
    Term(
        name="recomputation",
        plan={"plan.recompute": "none"},
        drop=("plan.recompute_keeps", "plan.recompute_layers"),
    ),
    Term(name="fixed cost of each kernel", device=_without_fixed_costs),
    Term(name="rates of the software stack", drop=("system.calibration",)),
    Term(name="fitted coefficients (datasheet instead)", drop=("system.calibration",), fidelity="datasheet"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablated:
    """Mean absolute error of the step time by source, whole and without a term [1]; rows by source."""

    term: str
    errors: Mapping[str, float]
    rows: Mapping[str, int]


@contextmanager
def _switched(term: Term) -> Iterator[None]:
    with ExitStack() as stack:
        for path, other in term.patched.items():
            stack.enter_context(patch(path, other))
        if term.device is not None:
            change_device = term.device
            made = lambda machines: change_device(device_columns(machines))  # noqa: E731
            stack.enter_context(patch(f"{MAKERS}.device_columns", made))
        if term.fabric is not None:
            change_fabric = term.fabric
            joined = lambda machines, devices: change_fabric(fabric_columns(machines, devices))  # noqa: E731
            stack.enter_context(patch(f"{MAKERS}.fabric_columns", joined))
        yield


def _changed(case: Case, term: Term) -> Case:
    scenario = {k: v for k, v in case.scenario.items() if k not in term.drop}
    return replace(case, scenario={**scenario, **term.plan})


def _less(prediction: Prediction, term: Term) -> Prediction:
    if not term.less or not prediction.columns:
        return prediction
    taken = sum(prediction.columns[name] for name in term.less)
    columns = {**prediction.columns, "step_time_s": prediction.columns["step_time_s"] - taken}
    return replace(prediction, columns=columns)


def _errors(cases: Sequence[Case], term: Term) -> dict[tuple[str, str], float]:
    """Absolute error of each scored step by source and id."""
    changed = [_changed(case, term) for case in cases]
    with _switched(term):
        predictions = predict(changed, term.fidelity)
    found = {}
    for case, prediction in zip(changed, predictions, strict=True):
        for entry in score(case, _less(prediction, term)):
            if entry.quantity == "step_time" and entry.predicted is not None:
                found[source_prefix(case), case.id] = abs(entry.error)
    return found


def ablate(cases: Sequence[Case], terms: Sequence[Term] = TERMS) -> list[Ablated]:
    """Score cases as they are, then without each term.

    Parameters
    ----------
    cases : sequence of Case
        With scenarios.
    terms : sequence of Term
        What is switched off, one at a time.

    Returns
    -------
    list of Ablated
        The whole model first; every term over the same rows, those that can be scored either way.

    Raises
    ------
    ScenarioError, SpecError
        If a scenario does not resolve.
    """
    scored = [_errors(cases, term) for term in (Term(name="whole model"), *terms)]
    common = set.intersection(*(set(found) for found in scored))
    sources = sorted({source for source, _ in common})
    out = []
    for term, found in zip((Term(name="whole model"), *terms), scored, strict=True):
        of = {s: [found[key] for key in common if key[0] == s] for s in sources}
        of["all"] = [found[key] for key in common]
        out.append(
            Ablated(
                term=term.name,
                errors={s: float(np.mean(v)) for s, v in of.items()},
                rows={s: len(v) for s, v in of.items()},
            )
        )
    return out


def table_lines(found: Sequence[Ablated]) -> list[str]:
    """Lines of a table in Markdown: errors of the whole model in percent, then points that each term takes off them."""
    whole = found[0]
    names = [f"{source} ({whole.rows[source]})" for source in whole.errors]
    lines = [f"| without | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    lines.append(f"| nothing, error in % | {' | '.join(f'{100 * e:.1f}' for e in whole.errors.values())} |")
    for one in found[1:]:
        points = [f"{100 * (one.errors[s] - whole.errors[s]):+.1f}" for s in whole.errors]
        lines.append(f"| {one.term} | {' | '.join(points)} |")
    return lines


def text_of(found: Sequence[Ablated]) -> str:
    """The page as Markdown; raises nothing."""
    return "\n".join([*HEADING, "", *table_lines(found), "", *READING]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or print the page for a file of training runs; 0."""
    parser = argparse.ArgumentParser(
        description="Score measured training runs with terms switched off one by one."
    )
    parser.add_argument("table", type=Path, help="training_runs.csv")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file; default: standard output")
    options = parser.parse_args(arguments)
    cases = [training_case(row, {}) for row in read_table(options.table, "training_runs").rows]
    text = text_of(ablate([case for case in cases if case.scenario]))
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
