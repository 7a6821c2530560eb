"""The chapters of an estimate's report: each has a picture, the tables behind it, and words for both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from reports.energy_parts import energy_figure, energy_table
from reports.estimate_fields import Rows, scenario_text
from reports.headline import OPERATOR_COLUMNS
from reports.html_page import html_table
from reports.human_numbers import (
    format_bytes,
    format_count,
    format_energy,
    format_flop_per_s,
    format_fraction,
    format_power,
    format_rate,
    format_time,
)
from reports.memory_by_owner import memory_figure, memory_parts_table, memory_table, memory_verdict
from reports.pipeline_passes import pipeline_figure, pipeline_table
from reports.roofline import roofline_figure, roofline_table
from reports.scaling import scaling_figure, scaling_table
from reports.time_breakdown import operator_table, time_figure, time_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Chapter", "chapters"]

_ROOFLINE_ROWS = 12


def _intensity(value: Any) -> str:
    return f"{value:,.3g}"


_TIME = (
    ("label", "Class", str),
    ("exposed_s", "Exposed", format_time),
    ("fraction", "Share", format_fraction),
)
_MEMORY = (("label", "Owner", str), ("bytes", "Memory", format_bytes), ("fraction", "Share", format_fraction))
_ENERGY = (
    ("label", "Part", str),
    ("energy_j", "Energy", format_energy),
    ("average_power_w", "Average power", format_power),
    ("fraction", "Share", format_fraction),
)
_ROOFLINE = (
    ("operator", "Operator", str),
    ("flop_per_byte", "FLOP per byte", _intensity),
    ("flop_per_s", "Reached", format_flop_per_s),
    ("ceiling_flop_per_s", "Roof", format_flop_per_s),
    ("fraction", "Share", format_fraction),
    ("bound", "Bound by", str),
)
_SCALING = (
    ("devices", "Devices", format_count),
    ("step_time_s", "Step time", format_time),
    ("tokens_per_s", "Tokens per second", format_rate),
    ("speedup", "Speed-up", _intensity),
    ("ideal_speedup", "Ideal", _intensity),
    ("efficiency_fraction", "Efficiency", format_fraction),
)
_PIPELINE = (
    ("stage", "Stage", format_count),
    ("busy_s", "Works", format_time),
    ("idle_s", "Waits", format_time),
    ("idle_fraction", "Share waiting", format_fraction),
    ("most_held", "Micro-batches held", _intensity),
)


class Chapter(NamedTuple):
    """One phenomenon: its picture, the tables behind it (file name -> rows), and its words."""

    name: str
    heading: str
    figure: Callable[[], Figure]
    tables: dict[str, Rows]
    shown: str
    alt: str
    caption: str


def _shares(rows: Rows, value: str, form: Callable[[Any], str]) -> str:
    """``"Compute 812 ms (71 %), Optimizer ..."``, largest first: the picture for those who cannot see it."""
    ordered = sorted((row for row in rows if row[value]), key=lambda row: -row[value])
    return (
        ", ".join(
            f"{row['label']} {form(row[value])} ({format_fraction(row['fraction'])})" for row in ordered
        )
        or "nothing"
    )


def chapters(estimate: Mapping[str, Any], scaling: Rows, passes: Rows) -> list[Chapter]:
    """What this estimate has to show; a part that is missing from the mapping, or has no rows, has no chapter."""
    makers = (("time", _time), ("memory", _memory), ("operators", _roofline), ("energy", _energy))
    found = [make(estimate) for part, make in makers if estimate.get(part)]
    found += [_pipeline(estimate, passes)] if passes else []
    return [*found, _scaling(estimate, scaling)] if scaling else found


def _time(estimate: Mapping[str, Any]) -> Chapter:
    classes, operators = time_table(estimate), operator_table(estimate)
    return Chapter(
        name="time",
        heading="Time",
        figure=lambda: time_figure(estimate),
        tables={"time": classes, "top_operators": operators},
        shown=html_table(classes, _TIME, "Exposed time by class")
        + html_table(operators, OPERATOR_COLUMNS, "Longest operators, one device, whole step"),
        alt=f"Stacked bar of exposed time: {_shares(classes, 'exposed_s', format_time)}.",
        caption="Exposed time is what no other work hides; the parts sum to the step.",
    )


def _memory(estimate: Mapping[str, Any]) -> Chapter:
    owners, verdict = memory_table(estimate), memory_verdict(estimate)
    parts = memory_parts_table(estimate)
    return Chapter(
        name="memory_by_owner",
        heading="Memory",
        figure=lambda: memory_figure(estimate),
        tables={"memory_by_owner": owners, **({"memory_parts": parts} if parts else {})},
        shown=html_table(owners, _MEMORY, "Memory by owner, fullest device"),
        alt=f"Stacked bar of memory, {verdict}: {_shares(owners, 'bytes', format_bytes)}.",
        caption="Bytes on one device of the heaviest pipeline stage; GB is 1e9 bytes.",
    )


def _roofline(estimate: Mapping[str, Any]) -> Chapter:
    dots, peak = roofline_table(estimate), format_flop_per_s(estimate.get("peak_flop_per_s"))
    return Chapter(
        name="roofline",
        heading="Roofline",
        figure=lambda: roofline_figure(estimate),
        tables={"roofline": dots},
        shown=html_table(dots[:_ROOFLINE_ROWS], _ROOFLINE, "Operators on the roofline, longest first"),
        alt=f"Roofline with {len(dots)} operators under a matmul peak of {peak}.",
        caption="A dot under the slope waits for memory, one under the flat roof for arithmetic.",
    )


def _energy(estimate: Mapping[str, Any]) -> Chapter:
    parts = energy_table(estimate)
    return Chapter(
        name="energy",
        heading="Energy",
        figure=lambda: energy_figure(estimate),
        tables={"energy": parts},
        shown=html_table(parts, _ENERGY, "Energy by part, all devices, one step"),
        alt=f"Stacked bar of energy per step: {_shares(parts, 'energy_j', format_energy)}.",
        caption="Energy of one step over all used devices and their hosts.",
    )


def _pipeline(estimate: Mapping[str, Any], passes: Rows) -> Chapter:
    stages = pipeline_table(passes)
    idle = format_fraction(sum(row["idle_fraction"] for row in stages) / len(stages))
    return Chapter(
        name="pipeline",
        heading="Pipeline",
        figure=lambda: pipeline_figure(passes, scenario_text(estimate)),
        tables={"pipeline": stages, "pipeline_passes": passes},
        shown=html_table(stages, _PIPELINE, "Stages of the pipeline"),
        alt=f"Passes of {len(stages)} stages over time; stages wait {idle} of it.",
        caption="One step played out pass by pass, without messages between stages and what follows the last pass; "
        "numbers are micro-batches. Below, how many of them the first and the last stage keep activations of.",
    )


def _scaling(estimate: Mapping[str, Any], points: Rows) -> Chapter:
    rows = scaling_table(points)
    last, any_count = rows[-1], {**(estimate.get("scenario") or {}), "devices": None}
    title = scenario_text({**estimate, "devices": None, "scenario": any_count})
    efficiency = format_fraction(last["efficiency_fraction"])
    return Chapter(
        name="scaling",
        heading="Strong scaling",
        figure=lambda: scaling_figure(points, title),
        tables={"scaling": rows},
        shown=html_table(rows, _SCALING, "Strong scaling"),
        alt=f"Step time over devices; {efficiency} efficiency at {last['devices']:,} devices.",
        caption="The same work per step on more devices, against the ideal from the smallest count.",
    )
