"""Why one scenario is not as fast as another: differences of exposed time by cause, which sum exactly."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.estimates.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One cause: exposed seconds in both estimates, and the change [s]."""

    cause: str
    before_s: float
    after_s: float

    @property
    def change_s(self) -> float:
        """After minus before [s]."""
        return self.after_s - self.before_s


def differences(before: Estimate, after: Estimate) -> list[Difference]:
    """Differences by cause; their changes sum to the difference of the step times [s]. Raises nothing."""
    causes = list(dict.fromkeys([*before.time, *after.time]))
    return [
        Difference(cause=cause, before_s=before.time.get(cause, 0.0), after_s=after.time.get(cause, 0.0))
        for cause in causes
    ]
