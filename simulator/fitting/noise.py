"""Rows that were measured beside other work, and rows of several machines: what a fit must not be made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hardware_specs.errors import Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MOST_NOISY", "MOST_SPREAD", "NOISY", "machine_problems", "noise_problems", "without_noise"]

NOISY = "noisy"
MOST_NOISY = 0.25  # share of noisy rows above which the quiet ones are no fair choice either
MOST_SPREAD = 0.10  # median over the rows of half the distance between their 10th and 90th percentile


def machine_problems(frames: Mapping[str, pd.DataFrame]) -> list[Problem]:
    """Rows of more than one machine or setting under one device: one problem that counts them, or none."""
    counts: dict[str, int] = {}
    for frame in frames.values():
        if "machine" in frame:
            for name, rows in frame["machine"].dropna().value_counts().items():
                counts[str(name)] = counts.get(str(name), 0) + int(rows)
    if len(counts) < 2:
        return []
    told = ", ".join(f"{name} ({rows} rows)" for name, rows in counts.items())
    rule = f"mixes rows of {len(counts)} machines or settings, whose times do not belong together: {told}"
    fix = "give the tables of one llmsim measure folder at a time; its machine.yaml says which it is"
    return [Problem(path="--data, column machine", value="", rule=rule, fix=fix)]


def noise_problems(frames: Mapping[str, pd.DataFrame]) -> list[Problem]:
    """Whether the machine was too noisy to be calibrated, and by how much; none for tables that do not say."""
    total = noisy = 0
    spreads: list[float] = []
    for frame in frames.values():
        if "spread" not in frame or frame["spread"].isna().all():
            continue
        total += len(frame)
        noisy += int((frame["quality"] == NOISY).sum()) if "quality" in frame else 0
        spreads += [float(value) for value in frame["spread"].dropna()]
    if not spreads:
        return []
    spreads.sort()
    middle = spreads[len(spreads) // 2]
    fix = "stop other work on the machine and run llmsim measure again: it measures noisy rows anew"
    problems = []
    if noisy > MOST_NOISY * total:
        rule = (
            f"of {total} rows are noisy, {noisy / total:.0%} where at most {MOST_NOISY:.0%} may be: "
            "the machine did other work beside them"
        )
        problems.append(Problem(path="--data, column quality", value=str(noisy), rule=rule, fix=fix))
    if middle > MOST_SPREAD:
        rule = f"is the median spread of a row's repeats, where at most {MOST_SPREAD:.0%} may be"
        problems.append(Problem(path="--data, column spread", value=f"{middle:.0%}", rule=rule, fix=fix))
    return problems


def without_noise(frames: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], int]:
    """Frames without their noisy rows, and how many those are [1]; raises nothing."""
    kept = {
        kind: frame[frame["quality"] != NOISY] if "quality" in frame else frame
        for kind, frame in frames.items()
    }
    dropped = sum(len(frame) for frame in frames.values()) - sum(len(frame) for frame in kept.values())
    return {kind: frame for kind, frame in kept.items() if len(frame)}, dropped
