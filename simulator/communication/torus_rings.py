"""Rings on a torus or mesh: which axes a group extends along, how long its rings are, how fast a multi-ring is.

A group of ranks that lie ``stride`` devices apart covers part of each axis. The data is cut into one part per axis;
part i starts on axis i and goes on to the next one, so that all axes work at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

FloatArray = NDArray[np.float64]
DIRECTIONS = 2.0
Axes = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extents:
    """How far a group reaches along each axis [1], and the links of a rank that serve it there [1].

    Axes that it extends along come first; ``links`` count both directions of a whole ring and one of a part of an
    axis, and are shared with the groups that lie between its ranks.
    """

    lengths: Axes
    links: Axes


def extents(ranks: FloatArray, stride: FloatArray, axes: Axes, wrap: FloatArray) -> Extents:
    """Extents of a group on a torus of ``axes`` [1], whose ends are joined where ``wrap`` is 1; raises nothing."""
    reach, below = stride * ranks, np.ones(1)
    lengths: list[FloatArray] = []
    links: list[FloatArray] = []
    for axis in axes:
        above = below * axis
        members = np.minimum(above, reach) / np.maximum(below, stride)
        extends = (stride < above) & (reach > below) & (axis > 1)
        ring = (stride <= below) & (reach >= above) & (wrap > 0) & (axis > DIRECTIONS)
        apart = np.maximum(stride / below, 1.0)
        lengths.append(np.where(extends, np.maximum(members, 1.0), 1.0))
        links.append(np.where(ring, DIRECTIONS, 1.0) / apart)
        below = above
    for first in (0, 1, 0):  # axes of length one go to the end, the others keep their order
        empty = lengths[first] <= 1
        for row in (lengths, links):
            here, there = row[first], row[first + 1]
            row[first], row[first + 1] = np.where(empty, there, here), np.where(empty, here, there)
    return Extents(
        lengths=(lengths[0], lengths[1], lengths[2]),
        links=(links[0], links[1], links[2]),
    )


def along_axes(ranks: FloatArray, stride: FloatArray, axes: Axes) -> NDArray[np.bool_]:
    """Where a group fills whole parts of axes, so that its rings run along them; elsewhere it lies across borders."""
    aligned = np.ones(1, dtype=bool)
    below: FloatArray = np.ones(1)
    for axis in axes:
        below = below * axis
        for reach in (stride, stride * ranks):
            aligned = aligned & ((np.mod(reach, below) == 0) | (np.mod(below, reach) == 0))
    return aligned


def _shift(distance: FloatArray, axes: Axes, wrap: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Load of the busiest link if all devices send to the one ``distance`` further, and the most hops of one [1].

    On an axis a message moves by its digit of the distance, or by one more where lower digits carry. A line whose ends
    are joined takes the shorter way; one that is open carries those that come back as well. Both ways are counted
    together, as rings run in both directions at once.
    """
    busiest, hops = np.zeros(1), np.zeros(1)
    below: FloatArray = np.ones(1)
    for axis in axes:
        digit = np.mod(np.floor(distance / below), axis)
        carried = np.where(np.mod(distance, below) > 0, np.mod(digit + 1.0, axis), digit)
        near, far = (np.minimum(d, axis - d) for d in (digit, carried))
        same_way = (2.0 * np.maximum(digit, carried) <= axis) | (2.0 * np.minimum(digit, carried) >= axis)
        closed = np.where(same_way | (carried == digit), np.maximum(near, far), near + far)
        back = [np.where(d > 0, np.maximum(d, axis - d), 0.0) for d in (digit, carried)]
        busiest = np.maximum(busiest, np.where(wrap > 0, closed, 2.0 * np.maximum(near, far)))
        hops = hops + np.where(wrap > 0, np.maximum(near, far), np.maximum(back[0], back[1]))
        below = below * axis
    return busiest, hops


@rule(
    symbol="w",
    formula="(n - 1)/(2 n) (D(s) + D((n - 1) s)), D the most messages of a shift on one link",
    unit="1",
    source="every device sends to the next of its group, or from the last back to the first; axis after axis a link of "
    "a torus is crossed by at most as many messages of a shift as the shift is long on that axis",
)
def off_axis_load(
    *,
    ranks: FloatArray,
    stride: FloatArray,
    axis_0: FloatArray,
    axis_1: FloatArray,
    axis_2: FloatArray,
    wrap: FloatArray,
) -> FloatArray:
    """Most bytes through a link of a ring reduce-scatter, per byte of the message, where groups lie across axes [1].

    Two rings through the ranks in order of their numbers, one each way round; all groups of the plan's axis run at
    once. An upper bound: never faster than flows that share the links. ``ranks`` that are ``stride`` apart [1] on a
    torus of ``axis_0`` x ``axis_1`` x ``axis_2`` [1], with its ends joined where ``wrap`` is 1. Broadcasts; zero for
    one rank; raises nothing.
    """
    axes = (axis_0, axis_1, axis_2)
    forth, back = _shift(stride, axes, wrap)[0], _shift((ranks - 1.0) * stride, axes, wrap)[0]
    return (ranks - 1.0) / (2.0 * ranks) * (forth + back)


def off_axis_hops(ranks: FloatArray, stride: FloatArray, axes: Axes, wrap: FloatArray) -> FloatArray:
    """Hops of one pass of those rings, each exchange as long as the longest one [1]."""
    forth, back = _shift(stride, axes, wrap)[1], _shift((ranks - 1.0) * stride, axes, wrap)[1]
    return (ranks - 1.0) * np.maximum(forth, back)


def _phases(order: tuple[int, ...], e: Extents) -> list[FloatArray]:
    """Time of each phase of the part that visits axes in an order, per byte of the part and of link bandwidth."""
    left: FloatArray = np.ones(1)
    found = []
    for axis in order:
        length = e.lengths[axis]
        found.append((length - 1.0) / length * left / e.links[axis])
        left = left / length
    return found


@rule(
    symbol="w",
    formula="sum over phases of the slowest part, part i on axes i, i + 1, ...",
    unit="1",
    source="Kumar, Jouppi, arXiv:2011.03641, section 3: rings on each axis of a TPU pod",
)
def multi_ring_load(
    *,
    length_0: FloatArray,
    length_1: FloatArray,
    length_2: FloatArray,
    links_0: FloatArray,
    links_1: FloatArray,
    links_2: FloatArray,
) -> FloatArray:
    """Bytes through the busiest link of a multi-ring reduce-scatter, per byte of the message [1].

    ``length_0`` to ``length_2`` are the group's extents along the axes, those of length one last [1]; ``links_0`` to
    ``links_2`` the links that serve a rank on each [1]. Broadcasts; zero for one rank; raises nothing.
    """
    e = Extents(lengths=(length_0, length_1, length_2), links=(links_0, links_1, links_2))
    one = _phases((0,), e)[0]
    two = [_phases(order, e) for order in ((0, 1), (1, 0))]
    three = [_phases(order, e) for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1))]
    in_two = sum(np.maximum(a, b) for a, b in zip(*two, strict=True)) / 2.0
    in_three = sum(np.maximum(np.maximum(a, b), c) for a, b, c in zip(*three, strict=True)) / 3.0
    return np.where(e.lengths[2] > 1, in_three, np.where(e.lengths[1] > 1, in_two, one))


def ring_load(e: Extents) -> FloatArray:
    """:func:`multi_ring_load` of a group's extents."""
    return multi_ring_load(
        length_0=e.lengths[0],
        length_1=e.lengths[1],
        length_2=e.lengths[2],
        links_0=e.links[0],
        links_1=e.links[1],
        links_2=e.links[2],
    )


def ring_hops(e: Extents) -> FloatArray:
    """Dependent exchanges of one pass: each axis is a ring of its own [1]."""
    return e.lengths[0] + e.lengths[1] + e.lengths[2] - 3.0


def off_axis_all_to_all_load(axes: Axes) -> FloatArray:
    """The same bound of an all-to-all, per byte that a rank sends: half of the longest axis, there and back [1]."""
    return np.maximum(np.maximum(axes[0], axes[1]), axes[2])


def all_to_all_load(e: Extents) -> FloatArray:
    """Bytes through the busiest link of a uniform all-to-all, per byte that a rank sends in all [1].

    Messages take the shortest way, axis after axis; of a line the middle link is the busiest.
    """
    busiest: FloatArray = np.zeros(1)
    for length, links in zip(e.lengths, e.links, strict=True):
        pairs = (length**2 - np.mod(length, 2.0)) / (4.0 * length)
        busiest = np.maximum(busiest, pairs / links)
    return busiest
