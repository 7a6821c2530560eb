"""Rows that are faster than the lower bound, told apart: a cache, a wrong figure or a bad row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hardware_specs import find_device, load_accelerator
from simulator.validation.scoring import Score, source_prefix

__all__ = ["MEANING", "FloorViolation", "floor_violations"]

# Where this share of a device's rows of one kind is too fast, the row is not to blame but what it is compared with.
COMMON_SHARE = 0.05
MIN_ROWS = 3
CACHE, FIGURE, ROW = "cache-resident", "wrong figure", "bad row"
# For people, under the tables.
MEANING = {
    CACHE: "the last-level cache can hold the bytes that it did not wait for",
    FIGURE: "many rows of the kind are as fast: the catalog's peak or the counted work is doubtful",
    ROW: "its neighbours obey the bound",
}
# A layer of experts is five kernels in a row: each may find in the cache what the one before has written.
KERNELS = {"moe_layer_time": 5}

_Kind = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorViolation:
    """A row that beats the bound: seconds measured and of the bound, what limits the bound, and the likely cause.

    Attributes
    ----------
    score : Score
        Of the row; ``predicted`` is the bound [s].
    limit : str
        "compute" where it beats the peak rate itself, else "memory"; "step" for whole steps and layers.
    missing_bytes : float
        Bytes that the memory cannot have moved in the measured time [byte]; 0 if the limit is not the memory.
    cause : str
        A key of ``MEANING``: a cache-resident benchmark, a wrong figure or a bad row.
    """

    score: Score
    limit: str
    missing_bytes: float
    cause: str

    def to_dict(self) -> dict[str, Any]:
        """The row of the JSON contract: seconds, bytes, texts."""
        return {
            "id": self.score.case.id,
            "source": source_prefix(self.score.case),
            "device": self.score.case.device,
            "quantity": self.score.quantity,
            "measured_s": self.score.measured,
            "bound_s": self.score.predicted,
            "limit": self.limit,
            "missing_bytes": self.missing_bytes,
            "cause": self.cause,
        }


def _kind(entry: Score) -> _Kind:
    case = entry.case
    return (case.device, case.stack, case.dtype, entry.quantity)


def _too_fast(entry: Score) -> bool:
    return (
        not entry.skipped_because
        and entry.unit == "s"
        and entry.measured is not None
        and entry.predicted is not None
        and entry.measured < entry.predicted
    )


def _limit(entry: Score) -> str:
    if entry.compute_floor_s is None:
        return "step"
    assert entry.measured is not None
    return "compute" if entry.measured < entry.compute_floor_s else "memory"


def _missing_bytes(entry: Score) -> tuple[float, float]:
    """Bytes that were not moved in time, and those that kernels can find in the last-level cache [byte]."""
    assert entry.measured is not None and entry.predicted is not None
    named = find_device(entry.case.device)
    if named is None:
        return 0.0, 0.0
    board = load_accelerator(named.accelerator)
    seconds = entry.predicted - entry.measured
    caches = KERNELS.get(entry.quantity, 1) * board.l2_capacity.value
    return seconds * board.memory_bandwidth.value, caches


def floor_violations(scores: Sequence[Score]) -> list[FloorViolation]:
    """Rows that beat the bound, fastest first.

    Parameters
    ----------
    scores : sequence of Score
        All of one table under ``fidelity="bound"``, those within the bound included: a wrong figure shows in the
        share of a kind (device, stack, type, quantity) that is too fast.

    Returns
    -------
    list of FloorViolation
        Sorted by measured time over the bound. Raises SpecError if the catalog cannot be read.
    """
    rows = Counter(_kind(entry) for entry in scores if not entry.skipped_because)
    found = [(entry, _limit(entry), *_missing_bytes(entry)) for entry in scores if _too_fast(entry)]
    cached = [limit == "memory" and missing <= cache for _, limit, missing, cache in found]
    # What a cache explains says nothing about the figures.
    unexplained = Counter(_kind(found[i][0]) for i, hit in enumerate(cached) if not hit)
    out = []
    for (entry, limit, missing, _), hit in zip(found, cached, strict=True):
        here = unexplained[_kind(entry)]
        common = here >= MIN_ROWS and here >= COMMON_SHARE * rows[_kind(entry)]
        cause = CACHE if hit else FIGURE if common else ROW
        moved = missing if limit == "memory" else 0.0
        out.append(FloorViolation(score=entry, limit=limit, missing_bytes=moved, cause=cause))
    return sorted(out, key=lambda v: (v.score.measured or 0.0) / (v.score.predicted or 1.0))
