"""Output of ``torch.utils.flop_counter`` as FLOP by operator: the printed table, or its counts as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hardware_specs.errors import Problem, SpecError

__all__ = ["flop_by_operator"]

SCALE = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15}
LINE = re.compile(r"^\s*-?\s*(aten[.:]+\S+)\s+([\d.]+)([KMGBTP]?)\s+[\d.]+%\s*$")


def _plain(name: str) -> str:
    """An operator's name without its overload."""
    return name.replace("::", ".").removesuffix(".default")


def flop_by_operator(path: Path) -> dict[str, float]:
    """FLOP of each ATen operator over the whole module.

    Parameters
    ----------
    path : Path
        The table that ``FlopCounterMode`` prints, or a JSON mapping such as ``get_flop_counts()`` with names as text.

    Returns
    -------
    dict of str to float
        FLOP by name such as ``aten.mm`` [FLOP].

    Raises
    ------
    SpecError
        If the file cannot be read or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise _refused(path, "cannot be read as text") from None
    try:
        data = json.loads(text)
    except ValueError:
        return _of_table(path, text)
    counts = data.get("Global", data) if isinstance(data, dict) else None
    if not isinstance(counts, dict) or not counts or not all(_number(v) for v in counts.values()):
        raise _refused(path, "is JSON without FLOP by operator")
    return {_plain(str(name)): float(value) for name, value in counts.items()}


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_table(path: Path, text: str) -> dict[str, float]:
    """Operators of the first module that the table lists, which is the whole."""
    out: dict[str, float] = {}
    for line in text.splitlines():
        match = LINE.match(line)
        if match:
            name = _plain(match[1])
            if name in out:  # the next module begins
                break
            out[name] = float(match[2]) * SCALE[match[3]]
        elif out:
            break
    if not out:
        raise _refused(path, "has no line such as '- aten.mm  12.3GFLOP 80.0%'")
    return out


def _refused(path: Path, rule: str) -> SpecError:
    fix = "give what FlopCounterMode printed, or json.dumps({str(k): v for k, v in counts['Global'].items()})"
    return SpecError([Problem(path=str(path), value="", rule=rule, fix=fix)])
