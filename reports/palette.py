"""Colours, names and order of what is drawn: one place, so that a class looks the same in each plot.

The eight hues are those of Okabe and Ito (Color Universal Design, 2002), as printed by B. Wong, Nature
Methods 8, 441 (2011), doi:10.1038/nmeth.1618; people with the common forms of colour blindness can tell
them apart.
"""

from __future__ import annotations

__all__ = [
    "CLASS_LABELS",
    "DARK",
    "ENERGY_LABELS",
    "GRID",
    "INK",
    "MEMORY_LABELS",
    "PAPER",
    "SERIES",
    "SOFT_INK",
    "colour_of",
    "label_of",
    "text_on",
]

BLUE, SKY, GREEN, ORANGE = "#0072b2", "#56b4e9", "#009e73", "#e69f00"
VERMILLION, PURPLE, YELLOW, GREY = "#d55e00", "#cc79a7", "#f0e442", "#999999"
OTHER = "#c4c4c4"

INK, SOFT_INK, GRID, PAPER = "#1b1f24", "#57606a", "#d8dee4", "#ffffff"
# The dark scheme is a replacement of these four; hues stay, so that light and dark pages agree.
DARK = {INK: "#e6edf3", SOFT_INK: "#a5afba", GRID: "#343b44", PAPER: "#0f141a"}

CLASS_LABELS = {
    "compute": "Compute",
    "tensor_parallel": "Tensor parallel",
    "data_parallel": "Data parallel",
    "pipeline_p2p": "Pipeline p2p",
    "bubble": "Pipeline bubble",
    "optimizer": "Optimizer",
}
MEMORY_LABELS = {
    "weights": "Weights",
    "gradients": "Gradients",
    "optimizer": "Optimizer",
    "activations": "Activations",
    "kv_cache": "KV cache",
    "buffers": "Buffers",
    "reserved": "Reserved",
}
ENERGY_LABELS = {
    "static": "Static",
    "compute": "Arithmetic",
    "memory": "Device memory",
    "network": "Network",
    "host": "Host",
}

_COLOURS = {
    "compute": BLUE,
    "tensor_parallel": ORANGE,
    "data_parallel": VERMILLION,
    "pipeline_p2p": PURPLE,
    "bubble": GREY,
    "optimizer": GREEN,
    "context_parallel": SKY,
    "expert_parallel": YELLOW,
    "communication": YELLOW,
    "other": OTHER,
    "weights": BLUE,
    "gradients": VERMILLION,
    "activations": ORANGE,
    "kv_cache": PURPLE,
    "buffers": SKY,
    "reserved": GREY,
    "static": GREY,
    "memory": SKY,
    "network": ORANGE,
    "host": PURPLE,
    "total": SOFT_INK,
    "slower": VERMILLION,
    "faster": BLUE,
}
# Series without a meaning of their own: hue and marker change together, so that neither is needed alone.
SERIES = (
    (BLUE, "o"),
    (ORANGE, "s"),
    (GREEN, "^"),
    (VERMILLION, "D"),
    (PURPLE, "v"),
    (SKY, "P"),
    (GREY, "X"),
    (YELLOW, "*"),
)


def colour_of(name: str) -> str:
    """The fixed colour of a class, owner or part; grey for a name that is not known."""
    return _COLOURS.get(name, OTHER)


def label_of(name: str, labels: dict[str, str] = CLASS_LABELS) -> str:
    """The printed name of a class; an unknown one is spelled out of its key."""
    return labels.get(name) or name.replace("_", " ").capitalize()


def text_on(colour: str) -> str:
    """Near black or near white, whichever stands out on the colour; neither is swapped in the dark scheme."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2  # ITU-R BT.709 weights
    return "#1b1f25" if luminance > 0.25 else "#fffffe"
