"""Figures of machines as arrays over rows, with a sweep's overrides applied after the catalog has loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hardware_specs import SystemSpec, figures

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A figure set or scaled, per row; NaN leaves it alone.

    Attributes
    ----------
    value : ndarray
        New figure [SI unit of the figure].
    factor : ndarray
        Multiplier of the catalog's figure [1].
    """

    value: FloatArray
    factor: FloatArray


@dataclass(slots=True, kw_only=True)
class HardwareLeaves:
    """Figures of the systems that rows refer to.

    Attributes
    ----------
    systems : sequence of SystemSpec
        Distinct systems.
    index : ndarray of int, shape (n,) or (1,)
        System of each row.
    overrides : mapping of str to Override
        By dotted path below the system, e.g. "accelerator.memory_bandwidth".
    """

    systems: Sequence[SystemSpec]
    index: IndexArray
    overrides: Mapping[str, Override] = field(default_factory=dict)
    _tables: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tables = [{path: f.value for path, (f, _) in figures(s).items()} for s in self.systems]

    def catalog(self, path: str, missing: float = np.nan) -> FloatArray:
        """Figures before overrides, shape of ``index``; ``missing`` where a system does not have one."""
        return np.array([table.get(path, missing) for table in self._tables])[self.index]

    def get(self, path: str, missing: float = np.nan) -> FloatArray:
        """Figures by row, overrides applied [SI unit]; ``missing`` where a system does not have one."""
        base = self.catalog(path, missing)
        if path not in self.overrides:
            return base
        change = self.overrides[path]
        scaled = np.where(np.isnan(change.factor), base, base * change.factor)
        return np.where(np.isnan(change.value), scaled, change.value)

    def where_stated(
        self, paths: Sequence[str], missing: float = np.nan, *, overridden: bool = True
    ) -> FloatArray:
        """One figure that systems state under different paths, one each; "" where a system has none [SI unit]."""
        found = self.each([missing] * len(paths))
        for path in sorted({path for path in paths if path}):
            values = self.get(path, missing) if overridden else self.catalog(path, missing)
            has = [path == one for one in paths]
            found = values if all(has) else np.where(self.each([float(h) for h in has]) > 0, values, found)
        return found

    def each(self, values: Sequence[float]) -> FloatArray:
        """One number per system, spread over the rows."""
        return np.array(values, dtype=np.float64)[self.index]
