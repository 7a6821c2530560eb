"""Labels beside points, never on top of each other: a greedy search over places around each point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.canvas import clean
from reports.palette import INK, SOFT_INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["place_labels"]

_RADII_PT = (9, 18, 30, 44, 60, 80, 105, 130)
_ANGLES_DEG = (30, 150, -30, -150, 0, 180, 90, -90, 60, 120, -60, -120)
_LEADER_FROM_PT = 15
_SIZE_PT = 8.5

Box = tuple[float, float, float, float]


def _overlap(one: Box, other: Box) -> float:
    """Shared area of two boxes (left, bottom, right, top) [pixel^2]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def _box(artist: Any, pad: float = 0.0) -> Box:
    extent = artist.get_window_extent()
    return (extent.x0 - pad, extent.y0 - pad, extent.x1 + pad, extent.y1 + pad)


def _centre(point: tuple[float, float], size: tuple[float, float], radius: float, angle: float) -> Box:
    """Box of a text whose near edge is ``radius`` away from the point in the given direction."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x = point[0] + radius * cosine + size[0] / 2 * (cosine if abs(cosine) > 0.9 else round(1.2 * cosine))
    y = point[1] + radius * sine + size[1] / 2 * sine
    return (x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)


def place_labels(
    axes: Axes,
    labels: Sequence[tuple[float, float, str]],
    dots: Sequence[tuple[float, float, float]],
    taken: Sequence[Any] = (),
    lines: Sequence[tuple[float, float]] = (),
    prefer_deg: float = 30.0,
) -> int:
    """Write each label near its point where it hides nothing; a label without a place is left out.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Limits and layout must be final.
    labels : sequence of (x, y, text)
        In data coordinates, the most important first.
    dots : sequence of (x, y, radius)
        Points to keep clear, the radius in points.
    taken : sequence of artists
        Texts that are already there.
    lines : sequence of (x, y)
        Points along lines that should not be crossed where another place is free.
    prefer_deg : float
        Direction in which a label should stand, anticlockwise from the right [degree].

    Returns
    -------
    int
        How many labels were placed.
    """
    pixels = axes.figure.dpi / 72
    scene = _Scene(_box(axes), pixels, prefer_deg)
    scene.texts += [_box(artist, 2 * pixels) for artist in taken]
    scene.lines += [tuple(axes.transData.transform(point)) for point in lines]
    for x, y, radius in dots:
        (px, py), reach = axes.transData.transform((x, y)), radius * pixels
        scene.dots.append((px - reach, py - reach, px + reach, py + reach))
    return sum(_place(axes, scene, *label) for label in labels)


class _Scene:
    """What is on the picture so far, in pixels."""

    def __init__(self, inside: Box, pixels: float, prefer_deg: float) -> None:
        self.inside, self.pixels, self.prefer_deg = inside, pixels, prefer_deg
        self.texts: list[Box] = []
        self.dots: list[Box] = []
        self.lines: list[tuple[float, ...]] = []

    def price(self, box: Box, leader: Sequence[tuple[float, float]], radius: float, angle: float) -> float:
        """Cost of a place: covered dots first, then crossed lines, then distance and direction."""
        area = (box[2] - box[0]) * (box[3] - box[1])
        hidden = sum(_overlap(box, dot) for dot in self.dots) / area
        crossed = any(_within(point, box) for point in self.lines)
        struck = any(_within(point, text) for point in leader for text in self.texts)
        turned = abs((angle - self.prefer_deg + 180) % 360 - 180) / 30
        return 400 * hidden + 150 * crossed + 150 * struck + radius + turned

    def free(self, box: Box) -> bool:
        """Whether the place is inside the axes and touches no text."""
        outside = box[0] < self.inside[0] or box[1] < self.inside[1]
        outside = outside or box[2] > self.inside[2] or box[3] > self.inside[3]
        return not outside and not any(_overlap(box, text) for text in self.texts)


def _within(point: Sequence[float], box: Box) -> bool:
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def _leader(point: tuple[float, float], box: Box) -> list[tuple[float, float]]:
    """Samples along the straight line from the point to the nearest edge of the box."""
    near = (min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3]))
    shares = [place / 12 for place in range(13)]
    return [(point[0] + s * (near[0] - point[0]), point[1] + s * (near[1] - point[1])) for s in shares]


def _place(axes: Axes, scene: _Scene, x: float, y: float, label: str) -> bool:
    """Put one label at its cheapest free place, with a leader where it is not close."""
    words = clean(label)
    text = axes.text(
        0, 0, words, size=_SIZE_PT, color=INK, ha="center", va="center", transform=None, zorder=6
    )
    px, py = axes.transData.transform((x, y))
    extent = _box(text, 1.5 * scene.pixels)
    size, best, cost, best_radius = (extent[2] - extent[0], extent[3] - extent[1]), None, math.inf, 0
    for radius in _RADII_PT:
        for angle in _ANGLES_DEG:
            box = _centre((px, py), size, radius * scene.pixels, angle)
            if scene.free(box):
                price = scene.price(box, _leader((px, py), box), radius, angle)
                if price < cost:
                    best, cost, best_radius = box, price, radius
    if best is None:
        text.remove()
        return False
    text.set_position(((best[0] + best[2]) / 2, (best[1] + best[3]) / 2))
    scene.texts.append(best)
    if best_radius >= _LEADER_FROM_PT:
        leader = _leader((px, py), best)
        scene.lines += leader
        ends = axes.transData.inverted().transform([leader[0], leader[-1]])
        axes.plot(ends[:, 0], ends[:, 1], color=SOFT_INK, linewidth=0.6, zorder=4, scalex=False, scaley=False)
    return True
