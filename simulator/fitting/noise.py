"""Rows that were measured beside other work, at another pace of the machine, or on several: what to do before a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hardware_specs.errors import Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MOST_NOISY",
    "MOST_SPREAD",
    "NOISY",
    "at_one_pace",
    "machine_problems",
    "noise_problems",
    "without_noise",
]

NOISY = "noisy"
MOST_NOISY = 0.25  # share of noisy rows above which the quiet ones are no fair choice either
MOST_PACE = 0.25  # of the logarithm of the reference: further off, streams from memory do not follow it
MOST_SPREAD = 0.10  # median over the rows of half the distance between their 10th and 90th percentile


def at_one_pace(frames: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], float]:
    """Times as they would be at the usual pace of the machine.

    Parameters
    ----------
    frames : mapping of str to DataFrame
        Measured kernels; rows that state ``reference_us``, the time of the reference beside them, are moved to its
        median over all rows.

    Returns
    -------
    dict of str to DataFrame
        The same rows; those that state no reference, or one more than a quarter off, are left as they are, and the
        latter marked noisy.
    float
        Standard deviation of the logarithm of the reference over the rows, 0 where none is stated [1].

    Raises
    ------
    KeyError
        If a frame lacks ``latency_us``.
    """
    import numpy as np
    import pandas as pd

    stated = [frame["reference_us"] for frame in frames.values() if "reference_us" in frame]
    beats = pd.concat(stated).dropna().astype(float) if stated else pd.Series(dtype=float)
    if beats.empty:
        return dict(frames), 0.0
    usual, out = float(beats.median()), {}
    for kind, frame in frames.items():
        if "reference_us" not in frame:
            out[kind] = frame
            continue
        pace = (frame["reference_us"].astype(float) / usual).fillna(1.0)
        far = np.abs(np.log(pace)) > MOST_PACE
        changed = {"latency_us": frame["latency_us"].where(far, frame["latency_us"] / pace)}
        if "quality" in frame:
            changed["quality"] = frame["quality"].mask(far, NOISY)
        out[kind] = frame.assign(**changed)
    return out, float(np.std(np.log(beats)))


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
