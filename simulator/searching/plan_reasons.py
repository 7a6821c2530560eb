"""Why one plan is better than the next: how much, from which parts of the step, and by which keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.composition.evaluate import ENERGIES, TIMES

# Parts that make less than this share of the difference are not worth words.
WORTH_SAYING = 0.1
PARTS_SAID = 3


def reasons_by_rank(
    records: Sequence[Mapping[str, Any]], keys: Sequence[str], column: str, sign: float
) -> list[str]:
    """One sentence per row but the last: why it stands before the next one.

    Parameters
    ----------
    records : sequence of mapping
        Rows in order, best first: swept keys, results [unit in the name].
    keys : sequence of str
        Swept keys.
    column : str
        What the rows are ordered by.
    sign : float
        1 where less is better, -1 where more is.

    Returns
    -------
    list of str
        As many as records; the last one is empty. Raises nothing.
    """
    pairs = zip(records[:-1], records[1:], strict=True)
    return [*(_why(one, two, keys, column, sign) for one, two in pairs), *([""] if records else [])]


def _why(
    one: Mapping[str, Any], two: Mapping[str, Any], keys: Sequence[str], column: str, sign: float
) -> str:
    gain = sign * (two[column] - one[column])
    share = abs(gain / one[column]) if one[column] else 0.0
    changed = ", ".join(
        f"{key.rsplit('.', 1)[-1]} {_word(one[key])} for {_word(two[key])}"
        for key in keys
        if _word(one[key]) != _word(two[key])
    )
    if gain == 0:
        later = two["step_time_s"] - one["step_time_s"]
        how = (
            f"equal in {column}, {later:.3g} s faster"
            if later > 0
            else f"equal in {column}, earlier in the file"
        )
        return f"{how} ({changed})"
    parts = ", ".join(_parts(one, two, ENERGIES if column == "energy_j" else TIMES))
    return f"better by {share:.2%} in {column} ({changed})" + (f": {parts}" if parts else "")


def _parts(one: Mapping[str, Any], two: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Largest differences of the parts of a step, in words."""
    differences = {name: two[name] - one[name] for name in names if name in one}
    largest = max((abs(d) for d in differences.values()), default=0.0)
    order = sorted(differences, key=lambda name: -abs(differences[name]))
    said = [n for n in order[:PARTS_SAID] if abs(differences[n]) > WORTH_SAYING * largest]
    return [_part(name, differences[name]) for name in said]


def _part(name: str, difference: float) -> str:
    words, unit = name.rsplit("_", 1)
    amount = f"{abs(difference):.3g} {unit.upper() if unit == 'j' else unit}"
    return f"{words.replace('_', ' ')} {amount} {'less' if difference > 0 else 'more'}"


def _word(value: Any) -> str:
    if hasattr(value, "item"):
        value = value.item()
    return str(value).lower() if isinstance(value, bool) else str(value)
