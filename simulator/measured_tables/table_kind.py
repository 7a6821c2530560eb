"""What a kind of measured table is: its columns, and the type of their cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["CellType", "TableKind"]

CellType = Literal["text", "count", "positive", "number", "flag"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableKind:
    """Columns of one kind of table: those that must be there, and those that may be."""

    name: str
    needed: Mapping[str, CellType]
    optional: Mapping[str, CellType]
    one_of: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, CellType]:
        """All columns that are read."""
        return {**self.needed, **self.optional}

    def missing(self, header: Sequence[str]) -> list[str]:
        """Needed columns that a header lacks; alternatives are joined by "or"."""
        lacking = [name for name in self.needed if name not in header]
        if self.one_of and not any(name in header for name in self.one_of):
            lacking.append(" or ".join(self.one_of))
        return lacking
