"""An explanation for a terminal: the number and its parts first, then the rules behind it, nearest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reports.human_numbers import format_fraction, format_si, format_time

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["explanation_text"]

_PREFIXED = frozenset({"B", "FLOP", "FLOP/s", "B/s", "J", "W", "Hz", "token/s"})


def _amount(value: Any, unit: str) -> str:
    """A value with its unit; a list as its first and last value."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{_amount(value[0], unit)} ... {_amount(value[-1], unit)} ({len(value)} decode lengths)"
    if value is None:
        return "none"
    if isinstance(value, (str, bool)):
        return str(value).lower() if isinstance(value, bool) else value
    if unit == "s":
        return format_time(value)
    if unit in _PREFIXED:
        return format_si(value, unit, digits=4) if value else f"0 {unit}"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.5g}"


def _exact(value: Any, unit: str) -> str:
    """The number in full where the human form has dropped digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    exact = f"{value!r} {unit}".removesuffix(" 1") if unit else repr(value)
    return f"  ({exact})" if _amount(value, unit) != exact else ""


def _grid() -> Table:
    from rich.table import Table

    return Table.grid(padding=(0, 2))


def _parts(parts: Sequence[Mapping[str, Any]], is_sum: bool) -> Table:
    """Parts with their share where they add up to the number."""
    from rich.text import Text

    table = _grid()
    table.add_column(justify="left")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    whole = sum(p["value"] for p in parts)
    for part in parts:
        share = format_fraction(part["value"] / whole) if is_sum and whole else ""
        table.add_row(
            Text(f"  {part['path']}"), _amount(part["value"], part["unit"]), Text(share, style="dim")
        )
    return table


def _once(origin: str, cited: set[str]) -> str:
    """An origin, its citation written out the first time only."""
    name, bracket, citation = origin.partition(" (")
    if not bracket or citation not in cited:
        cited.add(citation)
        return origin
    return f"{name} (source as above)"


def _inputs(step: Mapping[str, Any], cited: set[str]) -> Table:
    from rich.text import Text

    table = _grid()
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for item in step["inputs"]:
        table.add_row(
            Text(f"    {item['name']}"),
            _amount(item["value"], item["unit"]),
            Text(_once(item["origin"], cited), style="dim"),
        )
    return table


def explanation_text(explanation: Mapping[str, Any], most: int | None = None) -> RenderableType:
    """An explanation, ready for ``rich.console.Console.print``.

    Parameters
    ----------
    explanation : mapping
        ``Explanation.to_dict()``.
    most : int or None
        Rules to show [1]; None shows all.

    Returns
    -------
    rich.console.RenderableType
        Value with unit, formula, parts with shares, then each rule with inputs, units and source.

    Notes
    -----
    Raises nothing of its own. Source: only the mapping.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    cited: set[str] = set()
    value, unit, parts = explanation["value"], explanation["unit"], explanation["parts"]
    items: list[Any] = []
    if isinstance(value, Mapping):
        items.append(Text(explanation["path"], style="bold"))
        words = ("module", "phase", "kind", "stream", "bound", "dtype", "evidence")
        said = ", ".join(f"{w} {value[w]}" for w in words if value.get(w))
        items += [Padding(Text(said, style="dim"), (0, 0, 0, 2))] if said else []
    else:
        headline = Text(f"{explanation['path']} = {_amount(value, unit)}", style="bold")
        headline.append(_exact(value, unit), style="dim not bold")
        items.append(headline)
    if explanation["formula"]:
        sign = "" if isinstance(value, Mapping) else "= "
        items.append(Padding(Text(f"{sign}{explanation['formula']}"), (0, 0, 0, 2)))
    if parts:
        items.append(
            _parts(parts, "sum of" in explanation["formula"] or "exposed time of" in explanation["formula"])
        )
    steps = explanation["steps"]
    for step in steps[:most]:
        title = Text(f"\n{step['path'] or 'device'}", style="bold")
        title.append(f"  {step['rule']}", style="not bold")
        items.append(title)
        written = f"{step['symbol']} = {step['formula']} = {_amount(step['value'], step['unit'])}"
        items.append(Padding(Text(written), (0, 0, 0, 2)))
        items.append(_inputs(step, cited))
        items.append(Padding(Text(f"source: {step['source']}", style="dim"), (0, 0, 0, 4)))
    if most is not None and len(steps) > most:
        items.append(
            Text(f"\n{len(steps) - most} more rules behind these: --depth 0 shows all.", style="dim")
        )
    return Group(*items)
