"""Beginnings of rows of a space, made longer axis by axis, in file order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.axis_tables import Factor

IndexArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
# Rows that are put together at once, before the rules that still wait are asked.
EXPANDED_ROWS = 131_072
# The last axes are kept as one number per row, up to this many combinations of them.
TAIL_COMBINATIONS = 1024


@dataclass(slots=True)
class Growing:
    """Beginnings of rows: combinations of the first axes, and for each row which of them, and a number for the rest.

    Attributes
    ----------
    head : list of ndarray
        Positions on the first axes, by combination.
    which : ndarray of int or None
        Combination of each row; None while rows are the combinations.
    tail : ndarray of int
        Mixed-radix number of the positions on further axes.
    chosen : int
        Axes chosen so far [1].
    numbers : ndarray of int
        Row numbers, in units of the rows that may begin so.
    waiting : list of int
        Rules that have not been decided.
    """

    head: list[IndexArray]
    which: IndexArray | None
    tail: IndexArray
    chosen: int
    numbers: IndexArray
    waiting: list[int]


def factors(lengths: Sequence[int], growing: Growing) -> list[Factor]:
    """The axes chosen so far, as the rows have them."""
    found = []
    n_head = len(growing.head)
    if n_head:
        head = Factor(range(n_head), growing.head)
        found.append(head if growing.which is None else head.trimmed(growing.which))
    if growing.chosen > n_head:
        own = lengths[n_head : growing.chosen]
        numbers, positions = np.arange(math.prod(own)), []
        for length in reversed(own):
            numbers, position = np.divmod(numbers, length)
            positions.append(position)
        tail = Factor(range(n_head, growing.chosen), positions[::-1])
        found.append(tail.trimmed(growing.tail))
    return found


def tail_from(lengths: Sequence[int]) -> int:
    """First of the axes that are kept as one number."""
    product = 1
    for axis in reversed(range(len(lengths))):
        product *= lengths[axis]
        if product > TAIL_COMBINATIONS:
            return axis + 1
    return 0


def remaining(lengths: Sequence[int], axis: int) -> int:
    """Rows that begin with given positions on the axes before ``axis`` [1]."""
    return math.prod(lengths[axis:])


def longer(lengths: Sequence[int], growing: Growing, start: int, stop: int) -> Iterator[Growing]:
    """Rows with one more axis chosen, in pieces of a bounded size, those outside of the range left out."""
    n, axis = len(growing.numbers), growing.chosen
    length, weight = lengths[axis], remaining(lengths, axis + 1)
    in_tail = axis >= tail_from(lengths)
    step = max(EXPANDED_ROWS // length, 1)
    for first in range(0, n, step):
        part = some(growing, slice(first, first + step))
        m = len(part.numbers)
        for low in range(0, length, EXPANDED_ROWS):
            values = np.arange(low, min(low + EXPANDED_ROWS, length))
            numbers = (part.numbers[:, None] * length + values).reshape(-1)
            if in_tail:
                which = np.arange(m) if part.which is None else part.which
                made = Growing(
                    part.head,
                    np.repeat(which, len(values)),
                    (part.tail[:, None] * length + values).reshape(-1),
                    axis + 1,
                    numbers,
                    list(part.waiting),
                )
            else:
                head = [np.repeat(p, len(values)) for p in part.head]
                head.append(np.tile(values, m))
                tail = np.zeros(len(numbers), dtype=np.int64)
                made = Growing(head, None, tail, axis + 1, numbers, list(part.waiting))
            if numbers[0] * weight < start or (numbers[-1] + 1) * weight > stop:
                keep(made, (numbers * weight < stop) & ((numbers + 1) * weight > start))
            if len(made.numbers):
                yield made


def positions_of(lengths: Sequence[int], growing: Growing, axes: Sequence[int]) -> dict[int, IndexArray]:
    """Position of each row on some of the axes chosen so far."""
    return {
        axis: factor.spread(factor.positions[factor.axes.index(axis)])
        for factor in factors(lengths, growing)
        for axis in axes
        if axis in factor.axes
    }


def some(growing: Growing, here: slice) -> Growing:
    """Some consecutive rows, with the combinations that they have."""
    if here.start == 0 and (here.stop is None or here.stop >= len(growing.numbers)):
        return growing
    head, which = growing.head, growing.which
    if which is None:
        head = [p[here] for p in head]
    else:
        which = which[here]
        if head and len(which):
            # Combinations are in the order of the rows.
            low, high = int(which[0]), int(which[-1]) + 1
            head, which = [p[low:high] for p in head], which - low
    return Growing(
        head, which, growing.tail[here], growing.chosen, growing.numbers[here], list(growing.waiting)
    )


def keep(growing: Growing, left: BoolArray) -> None:
    """Leave out the rows where ``left`` is false."""
    if left.all():
        return
    growing.numbers = growing.numbers[left]
    growing.tail = growing.tail[left]
    if growing.which is None:
        growing.head = [p[left] for p in growing.head]
    else:
        growing.which = growing.which[left]
