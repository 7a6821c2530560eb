"""Which measured fabrics are fitted, with which algorithms, and the coefficients that follow from them by rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware_specs import AlgorithmFit
from simulator.fitting.devices import A100, H100, MeasuredDevice
from simulator.fitting.fit_collectives import (
    Fits,
    MeasuredFabric,
    fit_algorithms,
)
from simulator.fitting.measured_collectives import CollectiveRows, message_rows
from simulator.fitting.robust_fit import significant

__all__ = [
    "B60",
    "FABRICS",
    "ONE_SHOT_LIBRARIES",
    "RTX_PRO_6000",
    "FabricSource",
    "between_nodes",
    "fit_library",
    "fit_one_shot",
    "switch_of",
    "with_in_switch_prior",
]

RING = ("efficiency", "base_latency_s", "step_latency_s", "ramp", "own_chunk")
DIRECT = ("efficiency", "base_latency_s", "ramp", "own_chunk")
BRIDGE = ("bridge_efficiency",)
IN_SWITCH = ("efficiency", "step_latency_s")
ONE_SHOT = ("efficiency", "base_latency_s", "step_latency_s")
# A switch that adds uses the ring's kernels, so it starts up and ramps up as they do; two long exchanges.
SHARED = {"in_switch": {"base_latency_s": "ring", "ramp": "ring"}}
ONE_SHOT_LIBRARIES = ("vLLM_custom_graph", "SGLang_CustomAllReduce_graph")

# What to assume of a switch that adds, where no such row was fitted: nccl-tests of 5 to 8 H200 at 8 GiB give
# (n + 1)/n S / T = 304 to 311 of 450 GB/s (micro.csv, stas00/ml-engineering); NCCL takes 25 us (src/graph/tuning.cc).
PRIOR_EFFICIENCY, PRIOR_LATENCY_S = 0.68, 25e-6

# Rings of many nodes over rails: 46-48 of 50 GB/s per port (NVIDIA/nccl-tests issue 290), 85-96 of 100 GB/s on A100
# nodes (issue 119). The middle of these is used.
SCALE_OUT_EFFICIENCY = 0.92


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricSource:
    """A fabric of the tables: its name there, its figures, the library, and what the calibration serves.

    ``share`` is the part of the compute units that a running exchange occupies [1], with its source.
    """

    name: str
    table: str
    library: str
    fabric: MeasuredFabric
    serves: Mapping[str, list[str]]
    device: MeasuredDevice | None = None
    gathered_per_rank: bool = False
    one_shot: bool = False
    share: float = 0.0
    share_source: str = ""

    @property
    def bridged(self) -> bool:
        """Whether messages cross host bridges."""
        return bool(np.isfinite(self.fabric.bridge_bytes_per_s))


def switch_of(device: MeasuredDevice) -> MeasuredFabric:
    """The NVSwitch node of a measured device."""
    return MeasuredFabric(
        topology="switch",
        link_bytes_per_s=device.link_bytes_per_s,
        in_switch=device.in_switch_reduction,
    )


def _nvswitch(name: str, device: MeasuredDevice, generation: str) -> FabricSource:
    share = device.exchange_units / device.units
    return FabricSource(
        name=name,
        table=device.collective_table,
        library="NCCL",
        fabric=switch_of(device),
        serves={"generations": [generation], "topologies": ["switch"]},
        device=device,
        one_shot=True,
        share=significant(share),
        share_source=f"assumed: {device.exchange_units} NCCL channels of one block on {device.units} units "
        f"({device.exchange_source})",
    )


# Two boards to a bridge: two ranks reach 42 GB/s and more, four and eight 23 each. PCI Express 5.0 x16, before headers.
RTX_PRO_6000 = FabricSource(
    name="pcie-5",
    table="rtx_pro_6000_server",
    library="NCCL",
    fabric=MeasuredFabric(topology="host", link_bytes_per_s=63e9, bridge=2.0, bridge_bytes_per_s=63e9),
    serves={"accelerators": ["rtx-pro-6000"], "topologies": ["host"]},
    share=significant(8 / 188),
    share_source="assumed: 8 NCCL channels of one block on 188 units, as few channels fill a PCI Express link",
)
B60 = FabricSource(
    name="arc-b60-pcie",
    table="b60",
    library="oneCCL",
    fabric=MeasuredFabric(topology="host", link_bytes_per_s=31.5e9),
    serves={"accelerators": ["arc-b60"], "topologies": ["host"]},
    gathered_per_rank=True,
    share_source="not known; copy engines are assumed to move the bytes",
)
FABRICS = (
    _nvswitch("nvswitch-ampere", A100, "ampere"),
    _nvswitch("nvswitch-hopper", H100, "hopper"),
    RTX_PRO_6000,
    B60,
)


def fit_library(source: FabricSource, rows: CollectiveRows) -> Fits:
    """Ring, direct and in-switch coefficients of a library on one fabric; ValueError without rows."""
    extra = BRIDGE if source.bridged else ()
    free: dict[str, tuple[str, ...]] = {"ring": (*RING, *extra)}
    if "all_to_all" in rows.operation:
        free["direct"] = (*DIRECT, *extra)
    linked: dict[str, dict[str, str]] = {}
    if source.fabric.in_switch and rows.n_ranks.max() > 4:
        free["in_switch"], linked = IN_SWITCH, SHARED
    stacks = ", ".join(sorted(set(rows.stack)))
    text = (
        f"collectives, {source.table}, {rows.n_ranks.min():.0f}-{rows.n_ranks.max():.0f} ranks of one node, "
        f"16-bit elements: {stacks}"
    )
    fits = fit_algorithms(rows, source.fabric, free, source=text, linked=linked)
    if "direct" not in fits:
        borrowed = {**fits["ring"].coefficients(), "own_chunk": 0.0}
        fits["direct"] = AlgorithmFit.of(
            borrowed, basis="assumed", source=f"coefficients of the ring; no all-to-all was measured: {text}"
        )
    return fits


def library_rows(
    folder: Path, source: FabricSource, *, dtypes: tuple[str, ...] = ("half",)
) -> CollectiveRows:
    """The rows of a fabric's library; FileNotFoundError without the table."""
    return message_rows(
        folder, source.table, (source.library,), dtypes=dtypes, gathered_per_rank=source.gathered_per_rank
    )


def fit_one_shot(rows: CollectiveRows, source: FabricSource, library: Fits) -> Fits:
    """All-reduce of one and of two exchanges under captured graphs, beside the library; ValueError without rows."""
    stacks = ", ".join(sorted(set(rows.stack)))
    return fit_algorithms(
        rows,
        source.fabric,
        {"one_shot": ONE_SHOT, "two_shot": ("base_latency_s",)},
        source=f"collectives, {source.table}, 2-8 ranks of one node, under captured graphs: {stacks}",
        known=library,
        linked={"two_shot": {"efficiency": "one_shot", "step_latency_s": "one_shot"}},
    )


def with_in_switch_prior(fits: Fits) -> dict[str, AlgorithmFit | Mapping[str, float]]:
    """Fits with an in-switch all-reduce that nobody measured: the stated prior, and the ring's ramp."""
    ring = fits["ring"].coefficients()
    prior = {
        **ring,
        "own_chunk": 0.0,
        "efficiency": PRIOR_EFFICIENCY,
        "step_latency_s": (PRIOR_LATENCY_S - ring["base_latency_s"]) / 2.0,
    }
    return {**fits, "in_switch": prior}


def between_nodes(folder: Path, ring_base_s: float) -> Fits:
    """Coefficients between nodes: latency and ramp from messages between two H100 nodes; rings by assumption.

    ``ring_base_s`` is the fixed time of a ring inside a node [s]. Raises FileNotFoundError without the table.
    """
    rows = message_rows(folder, H100.node_table, ("NCCL(torch, cuda graph)",), per_node=1.0)
    rows = rows.where(rows.operation == "send_recv")
    port = MeasuredFabric(topology="switch", link_bytes_per_s=H100.port_bytes_per_s)
    free = {"direct": ("efficiency", "base_latency_s", "ramp")}
    ideal = AlgorithmFit.of(
        {"efficiency": 1.0, "base_latency_s": 0.0, "step_latency_s": 0.0},
        basis="assumed",
        source="stands in where nothing is fitted",
    )
    direct = fit_algorithms(
        rows,
        port,
        free,
        source="messages between two h100_dgx nodes in collectives, one port",
        known={"ring": ideal},
    )["direct"]
    message_s = direct.base_latency_s
    base_s = min(ring_base_s, message_s)
    numbers = direct.coefficients()
    ring = AlgorithmFit.of(
        {
            **numbers,
            "efficiency": SCALE_OUT_EFFICIENCY,
            "base_latency_s": base_s,
            "step_latency_s": significant(message_s - base_s),
        },
        basis="assumed",
        source=f"latency and ramp: {direct.rows} messages between two h100_dgx nodes in collectives (they reach "
        f"{direct.efficiency} of one port); efficiency assumed: rings reach 0.92-0.96 of a port (NVIDIA/nccl-tests "
        "issue 290), 0.85-0.96 (issue 119)",
    )
    tree = replace_source(ring, f"as the ring: {ring.source}")
    return {"ring": ring, "tree": tree, "direct": direct}


def replace_source(fit: AlgorithmFit, source: str, **changes: Any) -> AlgorithmFit:
    """The same coefficients, or some ``changes`` of them, with another source and without rows; raises nothing."""
    return AlgorithmFit.of({**fit.coefficients(), **changes}, basis="assumed", source=source)
