"""What an accelerator, a fabric and a system are: every key, its dimension, its limits, its meaning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hardware_specs.errors import Problem, SpecError, near_names
from hardware_specs.fabric_rules import (
    BETWEEN_BLOCKS,
    GRIDS,
    MOST_DIMENSIONS,
    SWITCHED,
    broken_hierarchy,
    broken_node,
)
from hardware_specs.figure import Basis, Dimension, Figure, Spec

__all__ = [
    "AcceleratorSpec",
    "Basis",
    "DType",
    "Dimension",
    "DriveSpec",
    "FabricSpec",
    "Figure",
    "HostMemorySpec",
    "SliceSpec",
    "Spec",
    "StoreSpec",
    "SystemSpec",
    "Topology",
    "WireSpec",
    "dense_peak_flop_per_s",
]

DType = Literal["fp64", "tf32", "fp32", "bf16", "fp16", "fp8", "mxfp8", "int8", "fp4"]
Topology = Literal[
    "switch",
    "fully_connected",
    "ring",
    "mesh",
    "torus",
    "host",
    "fat_tree",
    "rail_optimised",
    "dragonfly",
    "wired",
]
_NAME = r"[a-z0-9]+(?:[.-][a-z0-9]+)*"
Name = Annotated[str, Field(pattern=f"^{_NAME}$", max_length=80)]
NameOrFile = Annotated[str, Field(pattern=rf"^(?:{_NAME}|.+\.ya?ml)$", max_length=4096)]

Units = Annotated[Figure, Dimension("count", minimum=1, whole=True)]
Count = Annotated[Figure, Dimension("count", positive=True)]
Ratio = Annotated[Figure, Dimension("count", minimum=1)]
Hertz = Annotated[Figure, Dimension("hz", positive=True)]
Rate = Annotated[Figure, Dimension("flop_per_s", positive=True)]
Bandwidth = Annotated[Figure, Dimension("bytes_per_s", positive=True)]
Capacity = Annotated[Figure, Dimension("bytes", positive=True)]
Bytes = Annotated[Figure, Dimension("bytes")]
Power = Annotated[Figure, Dimension("w")]
PowerLimit = Annotated[Figure, Dimension("w", positive=True)]
FlopEnergy = Annotated[Figure, Dimension("j_per_flop")]
ByteEnergy = Annotated[Figure, Dimension("j_per_byte")]
Latency = Annotated[Figure, Dimension("s")]
Money = Annotated[Figure, Dimension("usd")]


class AcceleratorSpec(Spec):
    """One device: GPU, TPU chip, other matrix processor or CPU socket.

    Peak FLOP/s of a dtype = units x clock x FLOP per unit and clock, always dense; one multiply-add
    is 2 FLOP. A dtype without an entry in ``matmul_flop_per_unit_clock`` has no units at all.
    """

    schema_version: Literal[1] = Field(description="1, the version of these keys")
    name: Name = Field(description="the catalog name, lower case with hyphens")
    vendor: str = Field(min_length=1, description="the maker")
    kind: Literal["gpu", "tpu", "npu", "cpu"] = Field(
        description="gpu, tpu, npu (other matrix processors) or cpu"
    )
    generation: str = Field(min_length=1, description="family that shares calibrations, such as hopper")
    aliases: list[Name] = Field(default_factory=list, description="other names that load this file")
    units: Units = Field(description="number of SMs, CUs, MXUs or cores that work")
    clock: Hertz = Field(description="boost clock at which the dense matmul peak is quoted")
    matmul_flop_per_unit_clock: dict[DType, Count] = Field(
        min_length=1, description="dense matmul FLOP per unit and clock, by dtype"
    )
    vector_flop_per_unit_clock: Count = Field(description="fp32 FLOP per unit and clock outside matmul units")
    peak: dict[DType, Rate] = Field(default_factory=dict, description="peaks that replace the product")
    datasheet_peak: dict[DType, Rate] = Field(
        default_factory=dict, description="dense peaks as published; only the linter reads them"
    )
    memory_capacity: Capacity = Field(description="device memory as the vendor states it")
    memory_bandwidth: Bandwidth = Field(description="peak device-memory bandwidth, reads plus writes")
    l2_capacity: Bytes = Field(description="last-level cache or shared on-chip memory of the device")
    sram_per_unit: Bytes = Field(description="scratchpad or private cache of one unit")
    reserved_memory: Bytes = Field(description="memory that the runtime takes before a model is loaded")
    power_limit: PowerLimit = Field(description="power limit of the device")
    idle_power: Power = Field(description="power while ready and waiting")
    energy_per_flop: dict[DType, FlopEnergy] = Field(description="energy of one matmul FLOP, by dtype")
    energy_per_vector_flop: FlopEnergy = Field(description="energy of one fp32 FLOP outside matmul units")
    energy_per_memory_byte: ByteEnergy = Field(description="energy to move one byte from or to memory")
    sparse_matmul_speedup: Ratio = Field(
        default=Figure(value=1.0, basis="assumed", source="no sparse matmul units stated"),
        description="matmul rate with 2:4 structured sparsity over the dense rate",
    )
    price: Money | None = Field(default=None, description="purchase price of one device")

    def broken_rules(self) -> Iterator[Problem]:
        """Types without energy or without units, and figures that exceed their limit; raises nothing."""
        for dtype in self.matmul_flop_per_unit_clock:
            if dtype not in self.energy_per_flop:
                yield _rule(f"energy_per_flop.{dtype}", "", "is missing for a dtype with matmul units")
        for key in ("energy_per_flop", "peak", "datasheet_peak"):
            for dtype in getattr(self, key):
                if dtype not in self.matmul_flop_per_unit_clock:
                    rule = "is given for a dtype without matmul units"
                    fix = f"remove it or give matmul_flop_per_unit_clock.{dtype}"
                    yield _rule(f"{key}.{dtype}", "", rule, fix)
        if self.idle_power.value >= self.power_limit.value:
            limit = f"must be below power_limit, which is {self.power_limit.value:g} W"
            yield _rule("idle_power", f"{self.idle_power.value:g} W", limit)
        if self.reserved_memory.value >= self.memory_capacity.value:
            rule = f"must be below memory_capacity, which is {self.memory_capacity.value / 1e9:g} GB"
            yield _rule("reserved_memory", f"{self.reserved_memory.value / 1e9:g} GB", rule)


class WireSpec(Spec):
    """Links between two places of a node: accelerators are numbers from 0, any other name is a switch."""

    between: Annotated[list[int | str], Field(min_length=2, max_length=2)] = Field(
        description="both ends, such as [0, 1] or [0, switch-a]"
    )
    links: Annotated[int, Field(ge=1)] = Field(default=1, description="links side by side")

    @property
    def ends(self) -> tuple[int | str, int | str]:
        """Both ends."""
        one, other = self.between
        return one, other


class FabricSpec(Spec):
    """Links of one tier. Bandwidth is that of one link in one direction.

    ``links`` counts per accelerator inside a node: to the switch, to all peers together (fully
    connected), or two per dimension (torus, mesh). Between nodes it counts NICs per node, in a tier beyond
    the links of one domain of the tier inside. On a ``host`` the accelerators hang on host bridges (PCI
    Express); messages between bridges cross two of them.
    """

    topology: Topology = Field(description="how the links join the accelerators or nodes")
    link_bandwidth: Bandwidth = Field(description="bandwidth of one link in one direction")
    links: Units = Field(
        description="links per accelerator; between nodes, NICs per node; beyond, links of a domain of the tier inside"
    )
    latency: Latency = Field(description="time of an empty message over one hop")
    in_switch_reduction: bool = Field(default=False, description="whether the switch adds up all-reduce")
    oversubscription: Ratio = Field(
        default=Figure(value=1.0, basis="assumed", source="full bisection bandwidth"),
        description="bandwidth into a block of nodes over the bandwidth between blocks",
    )
    nodes_per_block: Units | None = Field(
        default=None,
        description="nodes that share a leaf switch, a pod of rails or a dragonfly group; absent: oversubscription "
        "acts on every message",
    )
    rails: Units | None = Field(
        default=None,
        description="rail_optimised only: rails of a node; accelerators of a node share them evenly",
    )
    accelerators_per_bridge: Units | None = Field(
        default=None, description="host only: accelerators on one host bridge; absent: all on one"
    )
    bridge_bandwidth: Bandwidth | None = Field(
        default=None, description="host only: bandwidth between one bridge and the others, in one direction"
    )
    energy_per_byte: ByteEnergy = Field(description="energy to move one byte from end to end")
    shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="torus and mesh only: accelerators along each dimension"
    )
    wiring: list[WireSpec] | None = Field(default=None, description="wired only: every link of a node")
    domain: Units | None = Field(
        default=None,
        description="between nodes and beyond: accelerators that one domain of this tier joins, where a further tier "
        "joins such domains; absent: all",
    )
    ports: Literal["own", "uplinks"] | None = Field(
        default=None,
        description="beyond only: own, accelerators have ports into this tier; uplinks, the switches of the tier "
        "inside have, and messages cross its links too",
    )
    coefficients: Literal["scale_up", "scale_out"] | None = Field(
        default=None,
        description="which part of the fabric calibration its exchanges take; absent: scale_up inside a node, else "
        "scale_out",
    )

    def broken_rules(self) -> Iterator[Problem]:
        """Keys of another topology, odd links, a reduction without a switch; raises nothing."""
        grid = self.topology in GRIDS
        if not grid and self.shape is not None:
            yield _rule(
                "shape", str(self.shape), f"is for a torus or mesh, not for {self.topology}", "remove it"
            )
        if grid and self.links.value % 2:
            yield _rule("links", f"{self.links.value:g}", f"a {self.topology} has two links per dimension")
        if grid and self.shape is not None and len(self.shape) * 2 != self.links.value:
            rule = f"has {len(self.shape)} dimensions, but links are {self.links.value:g}: two per dimension"
            yield _rule("shape", str(self.shape), rule)
        if grid and self.shape is not None and len(self.shape) > MOST_DIMENSIONS:
            yield _rule("shape", str(self.shape), f"at most {MOST_DIMENSIONS} dimensions are modelled")
        if self.in_switch_reduction and self.topology not in SWITCHED:
            rule = f"a {self.topology} has no switch that could reduce"
            yield _rule("in_switch_reduction", "true", rule, "write false")
        if (self.wiring is None) == (self.topology == "wired"):
            rule = "is needed by wired" if self.wiring is None else f"is for wired, not for {self.topology}"
            yield _rule("wiring", "", rule, "list links as {between: [0, 1]}, or remove the key")
        yield from self._misplaced("rails", ("rail_optimised",))
        yield from self._misplaced("nodes_per_block", BETWEEN_BLOCKS)
        yield from self._misplaced("accelerators_per_bridge", ("host",))
        yield from self._misplaced("bridge_bandwidth", ("host",))
        if self.topology == "rail_optimised" and self.rails is None:
            yield _rule("rails", "", "is needed by rail_optimised", "give the rails of a node, such as 8")
        if self.topology == "dragonfly" and self.nodes_per_block is None:
            yield _rule("nodes_per_block", "", "is needed by a dragonfly", "give the nodes of one group")
        if (self.accelerators_per_bridge is None) != (self.bridge_bandwidth is None):
            missing = "bridge_bandwidth" if self.bridge_bandwidth is None else "accelerators_per_bridge"
            yield _rule(missing, "", "host bridges need both keys, or neither", "add it")

    def _misplaced(self, key: str, topologies: tuple[str, ...]) -> Iterator[Problem]:
        if getattr(self, key) is not None and self.topology not in topologies:
            rule = f"is for {' or '.join(topologies)}, not for {self.topology}"
            yield _rule(key, f"{getattr(self, key).value:g}", rule, "remove it")


class SliceSpec(Spec):
    """One part of a torus that can be allocated: accelerators in all, and along each dimension [1]."""

    devices: Annotated[int, Field(ge=1)]
    shape: list[Annotated[int, Field(ge=1)]]
    wrap: bool = Field(default=True, description="whether the ends of each dimension are joined")

    def broken_rules(self) -> Iterator[Problem]:
        """A shape that is not the number of devices; raises nothing."""
        if math.prod(self.shape) != self.devices:
            product = " x ".join(map(str, self.shape))
            yield _rule("devices", str(self.devices), f"must be {product} = {math.prod(self.shape)}")


class StoreSpec(Spec):
    """Memory outside the accelerators: that of the host, or drives of a node."""

    capacity: Capacity = Field(description="what all accelerators of a node may use of it together")
    bandwidth: Bandwidth = Field(
        description="between one accelerator and it, in one direction, while all of a node copy"
    )


class HostMemorySpec(StoreSpec):
    """Memory of a node's host, and its processors where they update parameters."""

    energy_per_byte: ByteEnergy = Field(
        default=Figure(
            value=215e-12,
            basis="assumed",
            source="PCI Express 5.0: 5 x the 1.3 pJ/bit of NVLink-C2C (NVIDIA Grace CPU, architecture page), 52 pJ/B; "
            "DRAM at 1.3 nJ per 64 bits (Horowitz, ISSCC 2014, doi:10.1109/ISSCC.2014.6757323), 163 pJ/B",
        ),
        description="energy to move one byte between an accelerator and it",
    )
    memory_bandwidth: Bandwidth | None = Field(
        default=None,
        description="of all memory channels of a node, reads plus writes, for an optimizer there",
    )
    vector_rate: Rate | None = Field(
        default=None, description="fp32 FLOP/s of all processors of a node, for an optimizer there"
    )


class DriveSpec(StoreSpec):
    """Drives of a node."""

    energy_per_byte: ByteEnergy = Field(
        default=Figure(
            value=3e-9,
            basis="assumed",
            source="a U.2 drive of PCI Express 4.0: about 20 W at about 7 GB/s, typical of data sheets",
        ),
        description="energy to move one byte between an accelerator and it",
    )


class SystemSpec(Spec):
    """Accelerators, how they form a node, and how nodes are joined."""

    schema_version: Literal[1] = Field(description="1, the version of these keys")
    name: Name = Field(description="the catalog name, lower case with hyphens")
    aliases: list[Name] = Field(default_factory=list, description="other names that load this file")
    accelerator: AcceleratorSpec = Field(description="a catalog name, a path or a mapping")
    accelerators_per_node: Units = Field(description="accelerators that share a host and scale_up links")
    scale_up: FabricSpec = Field(description="fabric between accelerators of a node (torus: of a slice)")
    scale_out: FabricSpec | None = Field(default=None, description="fabric between nodes (torus: slices)")
    beyond: dict[Name, FabricSpec] = Field(
        default_factory=dict,
        description="further tiers by name, from the inside out: each joins domains of the one before it",
    )
    host_power: Power = Field(description="power of a node without its accelerators")
    host_memory: HostMemorySpec | None = Field(
        default=None, description="memory of a node's host, for offload"
    )
    nvme: DriveSpec | None = Field(default=None, description="drives of a node, for offload")
    max_devices: Units = Field(description="most accelerators that the fabric joins")
    slices: list[SliceSpec] = Field(default_factory=list, description="torus only: what can be allocated")
    calibration: NameOrFile | None = Field(
        default=None, description="calibration to use, a catalog name or a path; none: by accelerator"
    )
    fabric_calibration: NameOrFile | None = Field(
        default=None,
        description="fabric calibration to use, a catalog name or a path; none: by accelerator and topology",
    )

    @property
    def tiers(self) -> dict[str, FabricSpec]:
        """All tiers from the inside out, by the dotted path of their figures."""
        out = {} if self.scale_out is None else {"scale_out": self.scale_out}
        return {
            "scale_up": self.scale_up,
            **out,
            **{f"beyond.{name}": tier for name, tier in self.beyond.items()},
        }

    @property
    def slice_devices(self) -> int | None:
        """Accelerators of a slice of a torus or mesh with a shape, many of which a further tier joins [1]."""
        shape = self.scale_up.shape
        joined = self.scale_up.topology in GRIDS and shape is not None and self.scale_out is not None
        return math.prod(shape) if joined and shape is not None else None

    def broken_rules(self) -> Iterator[Problem]:
        """Device counts, slices and fabrics that do not belong together; raises nothing."""
        per_node, most = self.accelerators_per_node.value, self.max_devices.value
        torus = self.scale_up.topology in GRIDS
        if most < per_node:
            yield _rule("max_devices", f"{most:g}", f"must be at least the {per_node:g} of one node")
        if self.scale_out is None and not torus and most > per_node:
            rule = f"without scale_out no more than the {per_node:g} accelerators of one node are joined"
            yield _rule("max_devices", f"{most:g}", rule, f"write {per_node:g} or give scale_out")
        if self.slices and not torus:
            rule = f"is for a torus or mesh, not for {self.scale_up.topology}"
            yield _rule("slices", "[...]", rule, "remove it")
        if torus and not self.slices and self.scale_up.shape is None:
            rule = f"a {self.scale_up.topology} needs slices or scale_up.shape"
            yield _rule("slices", "", rule, "list what can be allocated")
        n_dimensions = self.scale_up.links.value / 2
        for index, part in enumerate(self.slices if torus else []):
            if len(part.shape) != n_dimensions:
                rule = f"must have {n_dimensions:g} dimensions, two links each"
                yield _rule(f"slices[{index}].shape", str(part.shape), rule)
        yield from broken_node(self)
        yield from broken_hierarchy(self)


def dense_peak_flop_per_s(accelerator: AcceleratorSpec, dtype: str) -> float:
    """Dense matmul peak of one device.

    Parameters
    ----------
    accelerator : AcceleratorSpec
        The device.
    dtype : str
        A key of ``matmul_flop_per_unit_clock``.

    Returns
    -------
    float
        ``peak[dtype]`` if the spec sets it, else units x clock x FLOP per unit and clock. [FLOP/s]

    Raises
    ------
    SpecError
        If the device has no matmul units for the dtype.
    """
    known = accelerator.matmul_flop_per_unit_clock
    for name, rate in accelerator.peak.items():
        if name == dtype:
            return rate.value
    for name, per_clock in known.items():
        if name == dtype:
            return accelerator.units.value * accelerator.clock.value * per_clock.value
    near = near_names(dtype, known) or list(known)
    raise SpecError(f"{accelerator.name} has no matmul units for {dtype}; use {', '.join(near)}")


def _rule(key: str, value: str, rule: str, fix: str = "") -> Problem:
    return Problem(path=key, value=value, rule=rule, fix=fix)
