"""The figures of training against measured runs: each group of rows, what was asked of it, and what it shows now.

``python -m simulator.validation.training_figures TABLE --out docs/training-figures.md`` writes the table of the
documentation again; nothing in it is typed by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from simulator.measured_tables.measured_table import Row, read_table
from simulator.validation.report import validate
from simulator.validation.stack_runs import STACKS
from simulator.validation.training_groups import ASSUMED, GROUPS, FigureGroup

__all__ = ["figures", "main", "superseded"]

# Spellings of one recipe in releases of Megatron-Bridge: the table takes each for a series of its own.
SAME_RECIPE: Mapping[str, str] = {"fp8-cs": "fp8", "fp8-mx": "mxfp8"}
CALIBRATIONS = Path(__file__).parents[2] / "hardware_specs" / "calibrations"


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
    """Score every group of :data:`simulator.validation.training_groups.GROUPS`.

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


def _fitted(stack: str) -> dict[str, Any]:
    """The calibration of a stack of :data:`STACKS` as it ships."""
    spec: dict[str, Any] = yaml.safe_load((CALIBRATIONS / f"{stack}.yaml").read_text(encoding="utf-8"))
    return spec


def _left_out(group: FigureGroup) -> float | None:
    """Error of a group's stack with a model left out of the fit, as a fraction."""
    if group.left_out is None:
        return None
    stack, name = group.left_out
    return float(_fitted(stack)["error"][name])


def _constants() -> list[str]:
    """One line per stack: its constants, rows, and errors with all rows and with a model left out."""
    lines = []
    by_device: dict[str, float] = {}
    for stack in STACKS:
        spec = _fitted(stack.name)
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
        "Those of MaxText on v5e and v5p state FLOP/s and how they were counted, from which their step times follow,",
        "and are scored with `--assume sequence_parallel=true`; those of several slices are not modelled.",
        "*newest*: the latest release of each model, devices, length and recipe; releases spell a recipe in two ways",
        "(fp8 and fp8-cs, mxfp8 and fp8-mx), which the table takes for two series. *calibrated*:",
        "`--assume calibration=b200-sxm-megatron`: products, attention, streams and collectives of that machine",
        "(micro.csv), no run fitted; *blind*: with none of them. *now* has the shipped constants, which were fitted to",
        "these very runs wherever *left out* has a figure: that of each model with the constants of the others, over",
        "the runs of the fit (torchtitan: all on H100, bf16 and fp8 together, but none with a scale for each row;",
        "InternEvo's are one model, and fitted).",
        "",
        "| rows | asked | now | left out | bias | scored | stated |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        cells = [_percent(value) for value in (row["mape"], _left_out(row["group"]), row["bias"])]
        counts = f"{row['rows']} | {row['stated']}"
        lines.append(
            f"| {row['group'].name} | {_percent(row['group'].asked)} | {' | '.join(cells)} | {counts} |"
        )
    lines += [
        "",
        "Constants that were fitted to whole runs, over calibrations of kernels alone; every other row is predicted",
        "without any. *left out*: a model with the constants of the others. Peak memory has one: a fragmentation of",
        "0.14, read off eight runs of torchtitan of 2024, where reserved memory is counted (torchtitan, BLOOM).",
        "Read off runs that are scored, though no number: checkpoints of llm-foundry stop early, its modes PURE and",
        "DEFAULT have rates of their own, and hosts of BLOOM's runs wait for each kernel (docs/decisions.md).",
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
