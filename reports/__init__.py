"""What a person looks at: terminal tables, plots, and pages that need nothing but themselves.

Reads plain mappings (``Estimate.to_dict()``) and frames, and imports none of the other packages, so that
a saved sweep can be drawn without the engine. Names are loaded on first use, and matplotlib, pandas and
rich by the functions that need them: the import of this package costs about a millisecond.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the import of typing alone would cost more than the rest; type checkers know the name
if TYPE_CHECKING:
    from typing import Any

    from reports.energy_parts import energy_table, plot_energy
    from reports.errors import ReportError
    from reports.estimate_report import write_report
    from reports.memory_by_owner import memory_table, plot_memory
    from reports.network_plots import network_table, plot_bus_bandwidth, plot_topology, replay_table
    from reports.pareto import plot_pareto
    from reports.pareto_front import pareto_table
    from reports.parity import parity_summary, parity_table, plot_parity
    from reports.roofline import plot_roofline, roofline_table
    from reports.scaling import plot_scaling, scaling_table
    from reports.sweep_report import write_sweep_report
    from reports.sweep_tables import axis_table, best_table
    from reports.terminal import estimate_table
    from reports.time_breakdown import operator_table, plot_time, time_table
    from reports.waterfall import compare_parts, plot_compare, plot_waterfall, waterfall_table

__all__ = [
    "ReportError",
    "axis_table",
    "best_table",
    "compare_parts",
    "energy_table",
    "estimate_table",
    "memory_table",
    "network_table",
    "operator_table",
    "pareto_table",
    "parity_summary",
    "parity_table",
    "plot_bus_bandwidth",
    "plot_compare",
    "plot_energy",
    "plot_memory",
    "plot_pareto",
    "plot_parity",
    "plot_roofline",
    "plot_scaling",
    "plot_time",
    "plot_topology",
    "plot_waterfall",
    "replay_table",
    "roofline_table",
    "scaling_table",
    "time_table",
    "waterfall_table",
    "write_report",
    "write_sweep_report",
]

_HOMES = {
    "energy_parts": ("energy_table", "plot_energy"),
    "errors": ("ReportError",),
    "estimate_report": ("write_report",),
    "memory_by_owner": ("memory_table", "plot_memory"),
    "network_plots": ("network_table", "plot_bus_bandwidth", "plot_topology", "replay_table"),
    "pareto": ("plot_pareto",),
    "pareto_front": ("pareto_table",),
    "parity": ("parity_summary", "parity_table", "plot_parity"),
    "roofline": ("plot_roofline", "roofline_table"),
    "scaling": ("plot_scaling", "scaling_table"),
    "sweep_report": ("write_sweep_report",),
    "sweep_tables": ("axis_table", "best_table"),
    "terminal": ("estimate_table",),
    "time_breakdown": ("operator_table", "plot_time", "time_table"),
    "waterfall": ("compare_parts", "plot_compare", "plot_waterfall", "waterfall_table"),
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            value = getattr(import_module(f"reports.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'reports' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
