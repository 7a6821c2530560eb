"""The registry of cost rules, and the recorder that explains a number.

A *rule* is a plain array function that was registered with its symbol, formula, unit and source. Calling
it computes; while a :class:`Recorder` is active the call is also noted, with its inputs and output, under
the path that the caller has opened with :func:`at`. ``explain`` is nothing but that record, so what it
shows is what was computed: feeding the recorded inputs back to the rule gives its recorded value.

Rules take keyword arguments only, so that a record names its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[P, R]):
    """What is known of one cost rule.

    Attributes
    ----------
    name : str
        The registered function's name; unique.
    symbol, formula, unit, source : str
        How a paper would write it, and where it comes from.
    function : callable
        The undecorated array function.
    """

    name: str
    symbol: str
    formula: str
    unit: str
    source: str
    function: Callable[P, R]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One call of a rule: where it happened, what went in, what came out."""

    path: str
    rule: str
    inputs: Mapping[str, Any]
    output: Any


@dataclass(slots=True)
class Recorder:
    """Collects the calls of rules made inside ``with recording() as recorder``."""

    records: list[Record] = field(default_factory=list)

    def note(self, record: Record) -> None:
        """Append one call."""
        self.records.append(record)

    def under(self, path: str) -> list[Record]:
        """Return the records whose path is ``path`` or lies below it, in calling order."""
        return [r for r in self.records if r.path == path or r.path.startswith(path + ".")]


# The registry: cost rules by name, filled by the decorator below.
RULES: dict[str, Rule[..., Any]] = {}
_active: list[Recorder] = []
_path: list[str] = []


def rule(*, symbol: str, formula: str, unit: str, source: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register an array function as a cost rule.

    Parameters
    ----------
    symbol, formula, unit, source : str
        Shown by ``llmsim explain``; none may be empty.

    Returns
    -------
    callable
        A decorator; the decorated function behaves as before and is noted while a recorder is active.

    Raises
    ------
    ValueError
        If a text is empty or the function's name is registered already.
    """
    if not (symbol and formula and unit and source):
        raise ValueError("a rule needs its symbol, formula, unit and source")

    def register(function: Callable[P, R]) -> Callable[P, R]:
        name = getattr(function, "__name__", "")
        if name in RULES:
            raise ValueError(f"a rule named {name} is registered already")
        RULES[name] = Rule(
            name=name, symbol=symbol, formula=formula, unit=unit, source=source, function=function
        )

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            output = function(*args, **kwargs)
            if _active:
                _active[-1].note(Record(path=".".join(_path), rule=name, inputs=dict(kwargs), output=output))
            return output

        return cast("Callable[P, R]", call)

    return register


def is_recording() -> bool:
    """Whether calls are noted now: each place then makes its own, even where another one made the same before."""
    return bool(_active)


@contextmanager
def unnoted() -> Iterator[None]:
    """Leave the rules called inside out of what is noted: the same was noted elsewhere. Raises nothing."""
    if not _active:
        yield
        return
    with recording():
        yield


@contextmanager
def at(path: str) -> Iterator[None]:
    """Name the place (as in ``Estimate.to_dict()``) that the rules called inside belong to."""
    _path.append(path)
    try:
        yield
    finally:
        _path.pop()


@contextmanager
def recording() -> Iterator[Recorder]:
    """Note every rule called inside; recorders nest, the innermost takes the notes. Raises nothing."""
    recorder = Recorder()
    _active.append(recorder)
    try:
        yield recorder
    finally:
        _active.pop()
