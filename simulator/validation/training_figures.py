"""The figures of training against measured runs: each group of rows, what was asked of it, and what it shows now.

``python -m simulator.validation.training_figures TABLE --out docs/training-figures.md`` writes the table of the
documentation again; nothing in it is typed by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from simulator.measured_tables.measured_table import Row, read_table
from simulator.validation.fit_stack_rates import LEAST_HIDDEN
from simulator.validation.report import validate
from simulator.validation.stack_runs import STACKS

__all__ = ["GROUPS", "FigureGroup", "figures", "main"]

STEP, PEAK = "step_time", "peak_memory"
ASSUMED: Mapping[str, str] = {
    "recompute": "none",
    "interconnect": "catalog",
    "zero_stage": "zero1 (distributed optimizer)",
}
# Kernels that were measured on the very machine of a group's runs.
MACHINE_KERNELS: Mapping[str, str] = {"calibration": "b200-sxm-megatron"}
MACHINE_RUNS: Mapping[str, str] = {"calibration": "b200-sxm-megatron-runs"}
# Spellings of one recipe in releases of Megatron-Bridge: the table takes each for a series of its own.
SAME_RECIPE: Mapping[str, str] = {"fp8-cs": "fp8", "fp8-mx": "mxfp8"}
CALIBRATIONS = Path(__file__).parents[2] / "hardware_specs" / "calibrations"
Test = Callable[[Row], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureGroup:
    """Rows whose error is one figure.

    Attributes
    ----------
    name : str
        For people.
    prefix : str
        How the ids of its rows start; several separated by "|".
    quantity : str
        "step_time" or "peak_memory".
    asked : float or None
        Largest mean error that was asked for, as a fraction; None: printed only.
    holds : callable
        Whether a row belongs to it.
    assume : mapping of str to str
        What is assumed of its rows, as ``--assume``.
    newest : bool
        Whether rows are left away that a newer release of the same configuration supersedes.
    constants : str
        What was fitted to whole runs, for people.
    """

    name: str
    prefix: str
    asked: float | None
    quantity: str = STEP
    holds: Test = lambda row: True
    assume: Mapping[str, str] = field(default_factory=dict)
    newest: bool = False
    constants: str = "none"


def _wide(row: Row) -> bool:
    return "8" not in row.text("precision").removeprefix("bf16").removeprefix("amp_bf16")


def _of(device: str) -> Test:
    return lambda row: (
        row.text("accelerator") == device
        and _wide(row)
        and (row.number_of("hidden") or 0) >= LEAST_HIDDEN
        and row.name not in ("lf-021", "lf-080")
    )


def _clean(row: Row) -> bool:
    return row.text("quality") == "A"


def _newest(experts: bool, devices: Sequence[str]) -> Test:
    return lambda row: (
        bool(row.cells.get("series_latest"))
        and (row.text("workload") or "pretrain") == "pretrain"
        and bool(row.number_of("experts")) == experts
        and row.text("accelerator") in devices
    )


_HERE = ("h100_sxm_80gb", "b200_sxm_180gb")
GROUPS = (
    FigureGroup(name="Megatron on one B200 node, blind", prefix="simu-b200-", asked=0.08),
    FigureGroup(
        name="Megatron on one B200 node, calibrated with kernels of that machine",
        prefix="simu-b200-",
        asked=0.04,
        assume=MACHINE_KERNELS,
    ),
    FigureGroup(
        name="Megatron on one B200 node, calibrated, and one rate fitted to these runs",
        prefix="simu-b200-",
        asked=None,
        assume=MACHINE_RUNS,
    ),
    FigureGroup(name="Megatron of the papers, A100", prefix="meg-sel22-|meg-sc21-", asked=0.03, holds=_clean),
    FigureGroup(name="FSDP, 7B and more, A100 40 GB", prefix="lf-", asked=0.05, holds=_of("a100_sxm_40gb")),
    FigureGroup(name="FSDP, 7B and more, A100 80 GB", prefix="lf-", asked=0.05, holds=_of("a100_sxm_80gb")),
    FigureGroup(name="FSDP, 7B and more, H100", prefix="lf-", asked=0.05, holds=_of("h100_sxm_80gb")),
    FigureGroup(
        name="torchtitan, bf16", prefix="titan-", asked=0.07, holds=lambda row: _clean(row) and _wide(row)
    ),
    FigureGroup(
        name="torchtitan, fp8", prefix="titan-", asked=0.12, holds=lambda row: _clean(row) and not _wide(row)
    ),
    FigureGroup(name="InternEvo", prefix="internevo-", asked=0.05, holds=_clean),
    FigureGroup(
        name="Megatron-DeepSpeed (BLOOM), head width 108 apart",
        prefix="bloom-",
        asked=0.06,
        holds=lambda row: _clean(row) and row.count("head_dim") != 108,
    ),
    FigureGroup(
        name="Megatron-DeepSpeed (BLOOM), head width 108",
        prefix="bloom-",
        asked=None,
        holds=lambda row: row.count("head_dim") == 108,
    ),
    FigureGroup(
        name="Megatron-Bridge, dense, newest",
        prefix="mbridge-",
        asked=0.08,
        holds=_newest(False, _HERE),
        assume=ASSUMED,
        newest=True,
    ),
    FigureGroup(
        name="Megatron-Bridge, experts, newest",
        prefix="mbridge-",
        asked=0.2,
        holds=_newest(True, _HERE),
        assume=ASSUMED,
        newest=True,
    ),
    FigureGroup(
        name="Megatron-Bridge, experts, every series of the table",
        prefix="mbridge-",
        asked=None,
        holds=_newest(True, _HERE),
        assume=ASSUMED,
    ),
    FigureGroup(
        name="Megatron-Bridge on GB200, dense, newest",
        prefix="mbridge-",
        asked=None,
        holds=_newest(False, ("gb200",)),
        assume=ASSUMED,
        newest=True,
    ),
    FigureGroup(
        name="Megatron-Bridge on GB200, experts, newest",
        prefix="mbridge-",
        asked=None,
        holds=_newest(True, ("gb200",)),
        assume=ASSUMED,
        newest=True,
    ),
    FigureGroup(name="MaxText on TPU v6e", prefix="tpurec-", asked=0.05),
    FigureGroup(name="peak memory, Megatron on B200", prefix="simu-b200-", asked=0.02, quantity=PEAK),
    FigureGroup(name="peak memory, torchtitan", prefix="titan-", asked=0.06, quantity=PEAK),
    FigureGroup(name="peak memory, BLOOM", prefix="bloom-", asked=0.08, quantity=PEAK),
)


def _release(row: Row) -> tuple[int, ...]:
    """The release that a row's notes state, such as 26.4.1; empty where they state none."""
    found = re.search(r"release ([\d.]+)", row.text("notes"))
    return tuple(int(part) for part in found[1].rstrip(".").split(".")) if found else ()


def superseded(rows: Sequence[Row]) -> set[str]:
    """Names of rows for which there is one of a newer release: same model, devices, length and recipe.

    A recipe that a release spells otherwise is the same one. Raises nothing.
    """
    newest: dict[tuple[object, ...], tuple[int, ...]] = {}

    def configuration(row: Row) -> tuple[object, ...]:
        text = row.text("precision")
        sizes = (row.count("n_accelerators"), row.count("seq_len"))
        return (row.text("model"), row.text("accelerator"), *sizes, SAME_RECIPE.get(text, text))

    for row in rows:
        key = configuration(row)
        newest[key] = max(newest.get(key, ()), _release(row))
    return {row.name for row in rows if _release(row) < newest[configuration(row)]}


def _belongs(group: FigureGroup, row: Row) -> bool:
    return any(row.name.startswith(start) for start in group.prefix.split("|")) and group.holds(row)


def figures(path: Path) -> list[dict[str, Any]]:
    """Score every group of :data:`GROUPS`.

    Parameters
    ----------
    path : Path
        The table ``training_runs``.

    Returns
    -------
    list of dict
        Group, rows that state the quantity [1], rows scored [1], mean absolute error and bias as fractions (None
        where nothing was scored), what was asked.

    Raises
    ------
    SpecError
        If the table cannot be read.
    """
    rows = read_table(path, None).rows
    ways = {tuple(group.assume.items()) for group in GROUPS}
    found = {way: validate(path, assume=dict(way)).to_dict()["rows"] for way in ways}
    by_key = {way: {(r["id"], r["quantity"]): r for r in scored} for way, scored in found.items()}
    out = []
    for group in GROUPS:
        scored = by_key[tuple(group.assume.items())]
        chosen = [row for row in rows if _belongs(group, row)]
        old = superseded(chosen) if group.newest else set()
        mine = [
            scored[key]
            for row in chosen
            if row.name not in old and (key := (row.name, group.quantity)) in scored
        ]
        stated = [r for r in mine if r["measured"] is not None]
        errors = np.array(
            [r["predicted"] / r["measured"] - 1.0 for r in stated if r["predicted"] is not None]
        )
        out.append(
            {
                "group": group,
                "stated": len(stated),
                "rows": len(errors),
                "mape": float(np.mean(np.abs(errors))) if len(errors) else None,
                "bias": float(np.mean(errors)) if len(errors) else None,
            }
        )
    return out


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _constants() -> list[str]:
    """One line per stack: its constants, rows, and errors with all rows and with a model left out."""
    lines = []
    by_device: dict[str, float] = {}
    for stack in STACKS:
        spec = yaml.safe_load((CALIBRATIONS / f"{stack.name}.yaml").read_text(encoding="utf-8"))
        constants = [f"{kind} {rate['value']:g}" for kind, rate in spec["rates"].items()]
        if "host" in spec:
            constants.append(f"host {1e6 * spec['host']['between_s']:.0f} us")
        rates = ", ".join(constants)
        errors = [_percent(spec["error"].get(name)) for name in ("before", "fitted", "left_out")]
        lines.append(f"| `{stack.name}` | {rates} | {spec['rows']} | {' | '.join(errors)} |")
        by_device.update(
            {name: error for name, error in spec["error"].items() if name.startswith("left_out_")}
        )
    parts = ", ".join(f"{name.removeprefix('left_out_')} {_percent(by_device[name])}" for name in by_device)
    return [*lines, "", f"Left out, by part where stacks share a constant: {parts}."] if parts else lines


def text_of(found: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown; raises OSError if a calibration is missing."""
    assumed = ", ".join(f"`--assume {key}={value}`" for key, value in ASSUMED.items())
    lines = [
        "# Training against measured runs",
        "",
        "Written by `python -m simulator.validation.training_figures TABLE --out docs/training-figures.md`: mean",
        "absolute error of the step time, or of peak memory, over the open rows; *stated* counts rows that state it.",
        f"Rows of Megatron-Bridge are scored with {assumed}.",
        "*newest*: the latest release of each model, devices, length and recipe; releases spell a recipe in two ways",
        "(fp8 and fp8-cs, mxfp8 and fp8-mx), which the table takes for two series. *calibrated*:",
        "`--assume calibration=b200-sxm-megatron`: products, attention, streams and collectives of that machine",
        "(micro.csv), no run fitted; *blind*: with none of them.",
        "",
        "| rows | asked | now | bias | scored | stated |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        cells = [_percent(row[name]) for name in ("mape", "bias")]
        counts = f"{row['rows']} | {row['stated']}"
        lines.append(
            f"| {row['group'].name} | {_percent(row['group'].asked)} | {' | '.join(cells)} | {counts} |"
        )
    lines += [
        "",
        "Constants that were fitted to whole runs, over calibrations of kernels alone; every other row is predicted",
        "without any. *left out*: a model with the constants of the others. Peak memory has one: a fragmentation of",
        "0.14, read off eight runs of torchtitan of 2024, where reserved memory is counted (torchtitan, BLOOM).",
        "",
        "| stack | constants | rows | kernels alone | fitted | left out |",
        "|---|---|---|---|---|---|",
        *_constants(),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or print the table; see ``--help``."""
    parser = argparse.ArgumentParser(description="Score the named groups of measured training runs.")
    parser.add_argument("table", type=Path, help="training_runs.csv")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file; default: standard output")
    options = parser.parse_args(arguments)
    text = text_of(figures(options.table))
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
