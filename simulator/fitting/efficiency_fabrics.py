"""Algorithms of collectives from rows that state a bandwidth and a latency per exchange, of one machine."""

from __future__ import annotations

from hardware_specs import AlgorithmFit, load_system
from simulator.fitting.efficiency_files import EfficiencyMachine
from simulator.fitting.fit_collectives import Fits
from simulator.fitting.measured_efficiencies import CollectiveRate, collective_rate
from simulator.fitting.measured_kernels import Tables
from simulator.fitting.robust_fit import significant

__all__ = ["efficiency_fabric"]

SYSTEM = "dgx-b200"


def _algorithm(share: float, base_s: float, step_s: float, rows: int, source: str) -> AlgorithmFit:
    numbers = {"efficiency": share, "base_latency_s": base_s, "step_latency_s": step_s}
    rounded = {name: significant(value) for name, value in numbers.items()}
    return AlgorithmFit.of(rounded, basis="derived", source=source, rows=rows)


def _whole_latency(rate: CollectiveRate, ranks: float) -> float:
    """Fixed time among all ranks of a node [s]."""
    return rate.seconds(0.0, ranks)


def efficiency_fabric(folder: Tables, machine: EfficiencyMachine) -> Fits:
    """Ring, direct messages and sums in the switch inside a node.

    Parameters
    ----------
    folder : Path or mapping
        Holds ``micro.csv``.
    machine : EfficiencyMachine
        Whose rows.

    Returns
    -------
    dict
        A ring from all-gather and reduce-scatter, their mean; direct messages from the all-to-all; a switch that adds
        up from the all-reduce. The last two are not made of exchanges that wait for each other: their fixed time is
        that among all ranks of the node.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    ValueError
        If a row is missing.
    """
    system = load_system(SYSTEM)
    ranks = float(system.accelerators_per_node.value)
    links = system.scale_up.link_bandwidth.value * system.scale_up.links.value
    table = machine.table
    gather, scatter, swap, reduce = (
        collective_rate(folder, table, name)
        for name in ("all_gather", "reduce_scatter", "all2all", "all_reduce")
    )

    def source(name: str) -> str:
        return (
            f"micro, {table.accelerator}, {name} between {ranks:g} of a node: {table.stack} ({table.source})"
        )

    # A switch that adds up is sent (n + 1)/n of the message, where the row counts 2 (n - 1)/n.
    counted = reduce.scale * (ranks + reduce.offset)
    return {
        "ring": _algorithm(
            (gather.bytes_per_s + scatter.bytes_per_s) / 2.0 / links,
            0.0,
            (gather.latency_s + scatter.latency_s) / 2.0,
            2,
            source("all_gather and reduce_scatter"),
        ),
        "direct": _algorithm(
            swap.bytes_per_s / links, _whole_latency(swap, ranks), 0.0, 1, source("all2all")
        ),
        "in_switch": _algorithm(
            reduce.bytes_per_s / links * (ranks + 1.0) / counted,
            _whole_latency(reduce, ranks),
            0.0,
            1,
            source("all_reduce"),
        ),
    }
