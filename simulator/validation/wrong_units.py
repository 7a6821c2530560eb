"""A whole table in another unit than its columns say is told, not scored: errors near 1000x are no errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hardware_specs import SystemSpec, find_device, load_accelerator
from hardware_specs.errors import Problem, SpecError, shorten
from hardware_specs.schema import AcceleratorSpec
from simulator.fitting.user_units import BYTES, table_in_another_unit
from simulator.measured_tables.measured_table import Row
from simulator.validation.scoring import Score

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["refuse_kernels_in_another_unit", "refuse_runs_in_another_unit"]

# Predictions of whole runs are within a factor of 3 in every clean table; a thousandth lies far outside.
FACTOR = 300.0
SECONDS = "s"


def refuse_kernels_in_another_unit(
    file: str, kind: str, rows: Sequence[Row], own: SystemSpec | None = None
) -> None:
    """Check the times of a table of kernels against what the devices can do, as ``llmsim calibrate`` does.

    Parameters
    ----------
    file : str
        Name of the file, for the message.
    kind : str
        Of table.
    rows : sequence of Row
        Typed rows; those of unknown devices and types are passed over.
    own : SystemSpec, optional
        System of the user's.

    Raises
    ------
    SpecError
        One message for each device and stack whose times are all in another unit.
    """
    problems = [
        found
        for frame, accelerator in _by_device_and_stack(rows, own)
        if (found := table_in_another_unit(file, kind, frame, accelerator)) is not None
    ]
    if problems:
        raise SpecError(problems)


def _by_device_and_stack(
    rows: Sequence[Row], own: SystemSpec | None
) -> Iterator[tuple[pd.DataFrame, AcceleratorSpec]]:
    import pandas as pd

    known = [row for row in rows if row.text("dtype") in BYTES and row.number_of("latency_us")]
    frame = pd.DataFrame([{**row.cells, "row": row.number} for row in known])
    if not len(frame):
        return
    stacks = [row.text("framework") for row in known]
    for (device, _), part in frame.groupby([frame["device"], pd.Series(stacks)], sort=False):
        if own is not None and str(device) == own.accelerator.name:
            yield part, own.accelerator
        elif (named := find_device(str(device))) is not None:
            yield part, load_accelerator(named.accelerator)


def refuse_runs_in_another_unit(file: str, scores: Sequence[Score]) -> None:
    """Check measured seconds of whole runs and layers against what was predicted.

    Parameters
    ----------
    file : str
        Name of the file, for the message.
    scores : sequence of Score
        Every quantity of every row.

    Raises
    ------
    SpecError
        One message for each quantity in seconds whose median row is off by a factor of 300 and more.
    """
    times = [s for s in scores if s.unit == SECONDS and s.predicted and s.measured]
    problems = []
    for quantity in dict.fromkeys(s.quantity for s in times):
        own = [s for s in times if s.quantity == quantity]
        ratio = float(np.median([(s.measured or 0.0) / (s.predicted or 1.0) for s in own]))
        if 1 / FACTOR <= ratio <= FACTOR:
            continue
        power = 3 * max(round(abs(np.log10(ratio)) / 3), 1)
        times_off = {3: "1000", 6: "a million"}.get(power, f"1e{power}")
        side, way = ("short", "multiply") if ratio < 1 else ("long", "divide")
        rule = (
            f"is about {times_off} times too {side}: the median of {len(own)} rows takes {ratio:.2g} of the predicted "
            "time, so these look like another unit than the column's name says"
        )
        problems.append(
            Problem(
                path=f"{file}, {quantity} (such as row {shorten(own[0].case.id)})",
                value=f"{own[0].measured:g} s",
                rule=rule,
                fix=f"{way} the column by 1e{power}, or check the device",
            )
        )
    if problems:
        raise SpecError(problems)
