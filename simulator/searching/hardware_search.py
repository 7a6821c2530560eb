"""Open hardware spaces: figures that may take any value in a range, searched by pymoo's NSGA-II.

A generation is one sweep: the figures of the whole population as arrays that change together, beside whatever plan axes
the scenario has. Of each machine the best plan counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hardware_specs import SystemSpec, parse_override
from hardware_specs.errors import InfeasibleError, LlmsimError, Problem, ScenarioError
from hardware_specs.figure_table import figure_dimension
from simulator.scenarios.scenario_reading import mapping_from
from simulator.searching.best_rows import Objective
from simulator.searching.plan_search import known_objectives
from simulator.spaces.axes import is_figure
from simulator.spaces.space import space_from
from simulator.sweeps.querying import HEADROOM
from simulator.sweeps.sweeping import run_space

if TYPE_CHECKING:
    import pandas as pd

FloatArray = NDArray[np.float64]
# What a machine without any plan that fits costs in every objective: worse than all others.
HOPELESS = 1e300


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A figure and its lowest and highest value [SI unit].

    They are multiples of the catalog's [1] where ``factor`` is set; ``whole`` is for counts.
    """

    key: str
    low: float
    high: float
    factor: bool
    whole: bool

    def values(self, shares: FloatArray) -> Any:
        """Values at shares [1] of the range, as a sweep takes them."""
        found = self.low + shares * (self.high - self.low)
        if self.whole:
            found = np.round(found)
        return [f"{v!r}x" for v in found.tolist()] if self.factor else found


def known_ranges(ranges: Mapping[str, Sequence[Any]]) -> list[Range]:
    """Ranges by dotted key of a figure, such as ``{"system.accelerator.units": [50, 300]}``; ScenarioError if wrong."""
    found, problems = [], []
    fix = "write such as system.accelerator.memory_bandwidth=1 TB/s..8 TB/s, or 0.5x..2x"
    for key, ends in ranges.items():
        if not is_figure(key):
            problems.append(Problem(path=key, value="", rule="is not a numeric figure of a system", fix=fix))
            continue
        if len(ends) != 2:
            problems.append(Problem(path=key, value=str(ends), rule="needs two ends", fix=fix))
            continue
        try:
            dimension = figure_dimension(SystemSpec, key.removeprefix("system."))
            low, high = (parse_override(str(end), dimension) for end in ends)
        except (LlmsimError, ValueError) as error:
            problems.append(Problem(path=key, value=str(ends), rule=f"is not a range ({error})", fix=fix))
            continue
        if low[0] != high[0] or not low[1] < high[1]:
            rule = "needs a lower and a higher end of one sort"
            problems.append(Problem(path=key, value=str(ends), rule=rule, fix=fix))
            continue
        is_set = low[0] == "set"
        whole = is_set and dimension == "count"
        found.append(Range(key=key, low=float(low[1]), high=float(high[1]), factor=not is_set, whole=whole))
    if problems or not found:
        none = [Problem(path="ranges", value="none", rule="an open space needs a range", fix=fix)]
        raise ScenarioError(problems or none)
    return found


def search_hardware(
    scenario: Mapping[str, Any] | str | Path,
    ranges: Mapping[str, Sequence[Any]],
    *,
    objective: str = "step_time,power",
    smallest: Sequence[str] = (),
    population: int = 64,
    generations: int = 40,
    seed: int = 0,
) -> pd.DataFrame:
    """Machines that no other one found equals or beats in all objectives.

    Parameters
    ----------
    scenario : mapping or path
        May have axes: the best plan of each machine counts, by the first objective.
    ranges : mapping of str to pair
        Dotted keys of figures, and their lowest and highest value as text with unit or as factors.
    objective : str
        As of a search, several with commas.
    smallest : sequence of str
        Keys of ranges that are to be small, too: what a figure costs.
    population, generations, seed : int
        Machines per generation, generations, seed of the random numbers [1].

    Returns
    -------
    pandas.DataFrame
        Figures [SI] or factors [1], other swept keys, results; in order of the first objective.

    Raises
    ------
    InfeasibleError
        If no machine found has a plan that fits.
    ScenarioError, SpecError
        For what is wrong in the scenario, the ranges or the objectives, and where pymoo is not installed.
    """
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.optimize import minimize
    except ModuleNotFoundError:
        fix = "pip install 'llmsim[sweep]'"
        raise ScenarioError(
            [Problem(path="ranges", value="", rule="open spaces need pymoo", fix=fix)]
        ) from None
    known, wanted = known_ranges(ranges), known_objectives(objective)
    machines = _Machines(dict(mapping_from(scenario)), known, wanted, [r for r in known if r.key in smallest])
    minimize(machines.problem(), NSGA2(pop_size=population), ("n_gen", generations), seed=seed, verbose=False)
    return machines.front()


class _Machines:
    """Evaluates machines, and remembers the best plan of each."""

    def __init__(
        self,
        scenario: dict[str, Any],
        ranges: Sequence[Range],
        objectives: Sequence[Objective],
        small: Sequence[Range],
    ) -> None:
        self.scenario = scenario
        self.ranges = list(ranges)
        self.objectives = list(objectives)
        self.small = [self.ranges.index(r) for r in small]
        self.frames: list[pd.DataFrame] = []
        self.costs: list[FloatArray] = []

    def problem(self) -> Any:
        """The problem as pymoo takes it: shares of the ranges in, costs out, a whole population at once."""
        from pymoo.core.problem import Problem as Population

        machines = self

        class Open(Population):  # type: ignore[misc]
            def __init__(self) -> None:
                n = len(machines.objectives) + len(machines.small)
                super().__init__(n_var=len(machines.ranges), n_obj=n, xl=0.0, xu=1.0)

            def _evaluate(self, x: FloatArray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
                out["F"] = machines.evaluate(x)

        return Open()

    def evaluate(self, shares: FloatArray) -> FloatArray:
        """Costs of machines, shape (n, objectives), from shares of the ranges, shape (n, ranges)."""
        figures = {r.key: r.values(shares[:, i]) for i, r in enumerate(self.ranges)}
        groups = self.scenario.get("zip", [])
        groups = [*(groups if isinstance(groups, list) else [groups]), figures]
        result = run_space(space_from({**self.scenario, "zip": groups}))
        n, width = len(shares), len(self.objectives) + len(self.small)
        costs = np.full((n, width), HOPELESS)
        fits = np.flatnonzero(result.columns["feasible"] > 0) if result.columns else np.zeros(0, dtype=int)
        if not len(fits):
            return costs
        columns = {
            **result.columns,
            HEADROOM: result.columns["capacity_bytes"] - result.columns["peak_bytes"],
        }
        machine = result.space.positions(result.rows[fits])[-1]
        found = np.stack([o.sign * columns[o.column][fits] for o in self.objectives], axis=1)
        order = np.lexsort((found[:, 0], machine))
        _, first = np.unique(machine[order], return_index=True)
        best = order[first]
        costs[machine[best]] = np.hstack([found[best], shares[machine[best]][:, self.small]])
        self.frames.append(result.frame().iloc[fits[best]])
        self.costs.append(costs[machine[best]])
        return costs

    def front(self) -> pd.DataFrame:
        """The machines that no other equals or beats, of all generations."""
        import pandas as pd

        from simulator.sweeps.querying import pareto_front

        if not self.frames:
            raise InfeasibleError("no machine in these ranges has a plan that fits; widen the memory's range")
        costs = np.concatenate(self.costs)
        chosen = pareto_front(costs)
        chosen = chosen[np.argsort(costs[chosen, 0], kind="stable")]
        return pd.concat(self.frames, ignore_index=True).iloc[chosen].reset_index(drop=True)
