"""The legal rows of a space, put together axis by axis: what a rule excludes is never multiplied out.

Rows grow from the first axis to the last, so they come in file order. A rule is asked as soon as the axes that it
looks at are chosen; whatever it excludes then stands for all rows that would have begun so. Rules that look at other
axes wait. No product of all axes is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import LlmsimError
from simulator.arrays.axis_tables import Rows, UndecidedError
from simulator.arrays.shared_columns import SharedColumn, dense
from simulator.legality import registry as legality
from simulator.spaces.growing_rows import (
    EXPANDED_ROWS,
    Growing,
    factors,
    keep,
    longer,
    positions_of,
    remaining,
    some,
)
from simulator.spaces.partition import Partition, Splitter
from simulator.spaces.row_columns import StructuralChoice
from simulator.spaces.space import Space
from simulator.spaces.structure_rows import StructureRows
from simulator.spaces.variants import Variants

IndexArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
CONDITION, REPEATS = "where does not hold", "repeats another plan"
INCONSISTENT = {"model": "model is consistent", "system": "system is consistent"}


@dataclass(slots=True)
class LegalRows:
    """Legal rows of one space.

    Attributes
    ----------
    splitter : Splitter
        Of the space.
    excluded : dict of str to int
        Rows left out so far, by the first rule that was decided against them.
    """

    splitter: Splitter
    excluded: dict[str, int] = field(default_factory=dict)
    _needs: dict[tuple[StructuralChoice, int], int] = field(default_factory=dict)
    _inconsistent: dict[str, BoolArray] = field(default_factory=dict)

    @property
    def _lengths(self) -> list[int]:
        return [len(axis) for axis in self._space.axes]

    @property
    def _space(self) -> Space:
        return self.splitter.space

    def partitions(self, start: int, stop: int, chunk_rows: int) -> Iterator[Partition]:
        """Partitions of the legal rows whose numbers are in [start, stop), of up to ``chunk_rows`` rows each.

        Rows are in order within a structure. Raises what resolving a value of an axis raises.
        """
        self._check_consistency()
        self._count_inconsistent(start, stop)
        for choice, allowed in self._structures():
            parts: list[Growing] = []
            held = 0
            for grown in self._grown(choice, allowed, start, stop):
                for first in range(0, len(grown.numbers), chunk_rows):
                    piece = some(grown, slice(first, first + chunk_rows))
                    if held + len(piece.numbers) > chunk_rows:
                        yield self._joined(choice, parts)
                        parts, held = [], 0
                    parts.append(piece)
                    held += len(piece.numbers)
            if parts:
                yield self._joined(choice, parts)

    def _joined(self, choice: StructuralChoice, parts: list[Growing]) -> Partition:
        numbers = np.concatenate([p.numbers for p in parts])
        tail = np.concatenate([p.tail for p in parts])
        head = [np.concatenate(h) for h in zip(*(p.head for p in parts), strict=True)]
        which, offset = [], 0
        for part in parts:
            local = np.arange(len(part.numbers)) if part.which is None else part.which
            which.append(local + offset)
            offset += len(part.head[0]) if part.head else 0
        joined = Growing(head, np.concatenate(which), tail, len(self._space.axes), numbers, [])
        return self.splitter.partition(choice, numbers, factors(self._lengths, joined))

    def _check_consistency(self) -> None:
        """Which combinations of the axes below a model or a system do not resolve; single values were checked."""
        if self._inconsistent:
            return
        v = self.splitter.variants
        for name, group in (("model", v.models), ("system", v.systems)):
            n = math.prod(len(self._space.axes[i]) for i in group.axes)
            wrong = np.zeros(n, dtype=bool)
            if len(group.axes) >= 2 or _checked_by_type_only(group.axes, self._space):
                wrong = np.array([not _resolves(group, code) for code in range(n)])
            self._inconsistent[name] = wrong

    def _count_inconsistent(self, start: int, stop: int) -> None:
        """Count the rows that no structure has because their model does not resolve, or else their system."""
        v = self.splitter.variants
        if not any(wrong.any() for wrong in self._inconsistent.values()):
            return
        for numbers in _pieces(start, stop):
            positions = self._space.positions(numbers)
            left = np.ones(len(numbers), dtype=bool)
            for name, group in (("model", v.models), ("system", v.systems)):
                codes = np.broadcast_to(group.codes(positions), left.shape)
                wrong = left & self._inconsistent[name][codes]
                self._count(INCONSISTENT[name], int(wrong.sum()))
                left &= ~wrong

    def _count(self, name: str, rows: int) -> None:
        if rows:
            self.excluded[name] = self.excluded.get(name, 0) + rows

    def _structures(self) -> list[tuple[StructuralChoice, StructureRows]]:
        """Structures of the space, and the rows of each."""
        v, maker = self.splitter.variants, self.splitter.maker
        lengths = [len(axis) for axis in self._space.axes]
        wrong_systems = self._inconsistent["system"]
        axes = sorted({*v.graphicals.axes, *v.models.axes, *(v.systems.axes if wrong_systems.any() else [])})
        shape = tuple(lengths[axis] for axis in axes)
        at = dict(zip(axes, np.indices(shape).reshape(len(axes), math.prod(shape)), strict=True))
        graphical, model = np.broadcast_arrays(v.graphicals.codes(at), v.models.codes(at))
        numbers: dict[StructuralChoice, int] = {}
        which = np.full(graphical.shape, -1)
        for one in {*zip(graphical.tolist(), model.tolist(), strict=True)}:
            if not self._inconsistent["model"][one[1]]:
                number = numbers.setdefault(maker.structure(*one), len(numbers))
                which[(graphical == one[0]) & (model == one[1])] = number
        if wrong_systems.any():
            which[wrong_systems[v.systems.codes(at)]] = -1
            numbers = {choice: number for choice, number in numbers.items() if np.any(which == number)}
        first = {choice: int(np.flatnonzero(which == number)[0]) for choice, number in numbers.items()}
        return [
            (choice, StructureRows(lengths, axes, (which == numbers[choice]).reshape(shape)))
            for choice in sorted(numbers, key=lambda choice: first[choice])
        ]

    def _grown(
        self, choice: StructuralChoice, allowed: StructureRows, start: int, stop: int
    ) -> Iterator[Growing]:
        """Legal rows in order, in pieces."""
        rules = list(range(len(self._rules())))
        one = np.zeros(1, dtype=np.int64)
        waiting = [Growing([], None, one, 0, one, rules)]
        while waiting:
            growing = waiting.pop()
            self._filter(choice, allowed, growing, start, stop)
            if not len(growing.numbers):
                continue
            if growing.chosen == len(self._space.axes):
                yield growing
                continue
            # The last piece is pushed first: rows come out in order.
            waiting += list(longer(self._lengths, growing, start, stop))[::-1]

    def _rules(self) -> list[tuple[str, Callable[[Rows, Any], Any]]]:
        """Everything that leaves a row out: its name, and where it does, from rows and their combination."""
        maker, space = self.splitter.maker, self._space
        found: list[tuple[str, Callable[[Rows, Any], Any]]] = [
            (entry.name, lambda rows, c, entry=entry: entry.broken(c))  # type: ignore[misc]
            for entry in legality.RULES
        ]
        for number in range(len(space.where)):
            found.append(
                (CONDITION, lambda rows, c, number=number: ~maker.condition(number, rows, c))  # type: ignore[misc]
            )
        if space.generated:
            found.append((REPEATS, lambda rows, c: legality.redundant(c, space.generated)))
        return found

    def _filter(
        self, choice: StructuralChoice, allowed: StructureRows, growing: Growing, start: int, stop: int
    ) -> None:
        """Keep the beginnings that the rules decided by now leave."""
        self._keep_structure(allowed, growing)
        chosen = growing.chosen
        known = (1 << chosen) - 1
        due = [r for r in growing.waiting if self._needs.get((choice, r), 0) & ~known == 0]
        if not due or not len(growing.numbers):
            return
        maker, n = self.splitter.maker, len(growing.numbers)
        rows = maker.rows(factors(self._lengths, growing), n)
        combination = maker.combination(choice, rows)
        left = np.ones(n, dtype=bool)
        rules = self._rules()
        for number in due:
            name, broken = rules[number]
            try:
                found = broken(rows, combination)
                if isinstance(found, SharedColumn) and found.values is None:
                    self._needs[(choice, number)] = found.mask
                    continue
            except UndecidedError:
                continue
            growing.waiting.remove(number)
            if np.any(found):
                out = left & np.broadcast_to(dense(found), (n,))
                self._count(name, self._weight(allowed, growing, np.flatnonzero(out), start, stop))
                left &= ~out
        keep(growing, left)

    def _weight(
        self, allowed: StructureRows, growing: Growing, out: IndexArray, start: int, stop: int
    ) -> int:
        """Rows of the structure and in the range that begin as some beginnings do."""
        weight, numbers = remaining(self._lengths, growing.chosen), growing.numbers[out]
        low, high = numbers * weight, (numbers + 1) * weight
        whole = (low >= start) & (high <= stop)
        total = 0
        for first, last in zip(low[~whole].tolist(), high[~whole].tolist(), strict=True):
            total += allowed.below(min(last, stop)) - allowed.below(max(first, start))
        at = positions_of(self._lengths, growing, allowed.deciding(growing.chosen))
        rows = allowed.completions(growing.chosen, {axis: p[out[whole]] for axis, p in at.items()})
        return total + int(np.broadcast_to(rows, (int(whole.sum()),)).sum())

    def _keep_structure(self, allowed: StructureRows, growing: Growing) -> None:
        if growing.chosen - 1 in allowed.axes:
            at = positions_of(self._lengths, growing, allowed.deciding(growing.chosen))
            keep(growing, allowed.completions(growing.chosen, at) > 0)


def _pieces(start: int, stop: int) -> Iterator[IndexArray]:
    for first in range(start, stop, EXPANDED_ROWS):
        yield np.arange(first, min(first + EXPANDED_ROWS, stop))


def _checked_by_type_only(axes: Sequence[int], space: Space) -> bool:
    """Whether an axis holds single shapes of a model, of which the input checks see one at a time."""
    return any(key.startswith("model.") for i in axes for key in space.axes[i].keys)


def _resolves(group: Variants[Any], code: int) -> bool:
    try:
        group.get(code)
    except LlmsimError:
        return False
    return True
