"""How long, how much: from a scenario to step time, memory and energy, for one plan and for a million.

The names below are the public interface; they are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardware_specs.errors import InfeasibleError, LlmsimError, Problem, ScenarioError, SpecError
    from simulator.estimates.estimate import Estimate, simulate
    from simulator.estimates.explanation import Explanation, explain
    from simulator.rules import RULES, Recorder, recording, rule
    from simulator.scenarios.scenario import Plan, Scenario
    from simulator.searching.plan_search import Found, search
    from simulator.sweeps.sweeping import sweep

__all__ = [
    "RULES",
    "Estimate",
    "Explanation",
    "Found",
    "InfeasibleError",
    "LlmsimError",
    "Plan",
    "Problem",
    "Recorder",
    "Scenario",
    "ScenarioError",
    "SpecError",
    "explain",
    "recording",
    "rule",
    "search",
    "simulate",
    "sweep",
]

_HOMES = {
    "hardware_specs.errors": ("InfeasibleError", "LlmsimError", "Problem", "ScenarioError", "SpecError"),
    "simulator.estimates.estimate": ("Estimate", "simulate"),
    "simulator.estimates.explanation": ("Explanation", "explain"),
    "simulator.rules": ("RULES", "Recorder", "recording", "rule"),
    "simulator.scenarios.scenario": ("Plan", "Scenario"),
    "simulator.searching.plan_search": ("Found", "search"),
    "simulator.sweeps.sweeping": ("sweep",),
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            value = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'simulator' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
