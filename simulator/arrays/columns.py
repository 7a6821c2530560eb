"""The numbers of many scenarios side by side: each field is an array over rows, or of length one.

These classes are what the engine computes with. A length-one array stands for all rows, so a single scenario
is the case in which every field has length one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]


def first_value(values: Any) -> float:
    """The first number of a column: the only one where there is one row; IndexError if there is none."""
    return float(np.asarray(values).reshape(-1)[0])


def column(values: ArrayLike) -> FloatArray:
    """Values as a float64 array with one dimension."""
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelColumns:
    """Sizes of the model [1].

    ``window`` and ``chunk`` are infinite without a sliding window or chunks, sizes of experts and of latents are 0
    without any. Every ``global_every``-th layer sees all keys (infinite: none does that others do not), every
    ``experts_every``-th behind the ``first_dense`` ones has experts, every ``both_every``-th both.
    """

    n_layers: FloatArray
    hidden: FloatArray
    ffn: FloatArray
    experts: FloatArray
    topk: FloatArray
    moe_ffn: FloatArray
    shared_ffn: FloatArray
    first_dense: FloatArray
    experts_every: FloatArray
    global_every: FloatArray
    both_every: FloatArray
    query_rank: FloatArray
    kv_rank: FloatArray
    rope_dim: FloatArray
    value_dim: FloatArray
    vocab: FloatArray
    positions: FloatArray
    token_types: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    head_dim: FloatArray
    window: FloatArray
    chunk: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskColumns:
    """What one step processes [1].

    ``batch`` counts sequences over all replicas, ``query_length`` new tokens of each, ``kv_length`` the
    tokens attended to (new ones included), ``cached_length`` the tokens that the cache must hold.
    """

    batch: FloatArray
    query_length: FloatArray
    kv_length: FloatArray
    cached_length: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanColumns:
    """Degrees and sizes of the plan [1]; switches are 0 or 1.

    ``ring``, ``gathered`` and ``ulysses`` say how context ranks meet in attention, all 0 on one of them.
    ``gradient_ranks`` hold the same parameters: replicas times context ranks; ``zero_group`` of them share a sharded
    copy; ``gradient_bucket`` is NaN where each layer is one. ``expert_copies`` are the ranks that hold the same part
    of the same experts; ``experts_apart`` is 1 where these are not the ``gradient_ranks``; ``expert_capacity`` is NaN
    where no row is dropped, ``expert_node_limit`` where any node will do. Strides are the distance, in devices, of
    neighbours on an axis;
    ``recompute_layers`` of a stage recompute, NaN where all do: the recompute switches are then that share.
    ``recompute_share`` is that share, 1 where all do.
    ``recompute_kept`` is the sum of 2^i over the words of :data:`KEPT_WORDS` of `workloads.rematerialisation` that are
    kept where ``recompute_needed`` is 1; ``recompute_modules`` that over the words of :data:`MODULES` which run again
    where ``recompute_named`` is 1;
    ``schedule`` is a code (:data:`SCHEDULES` of `simulator.pipelines`), ``optimizer`` too (:data:`OPTIMIZERS` of
    `simulator.per_device`); ``first_stage_layers`` and ``last_stage_layers`` are NaN where the plan does not say them;
    ``stage_layers`` has the layers of every chunk of the model by its place from the embedding (as text), NaN where a
    plan does not say them or has fewer, and is empty where none says any. ``update_on_host`` is 1 where the host's
    processors update the parameters.
    ``offload`` has by owner the code of a tier (:data:`TIERS` of `simulator.scenarios`), 0 on the device.
    ``collective_algorithm`` is a code (:data:`ALGORITHMS` of `simulator.communication`), 0 where the fastest one is
    taken.
    """

    devices: FloatArray
    tensor_parallel: FloatArray
    pipeline_parallel: FloatArray
    virtual_pipeline: FloatArray
    data_parallel: FloatArray
    context_parallel: FloatArray
    ring: FloatArray
    gathered: FloatArray
    ulysses: FloatArray
    zigzag: FloatArray
    gradient_ranks: FloatArray
    expert_parallel: FloatArray
    expert_tensor_parallel: FloatArray
    expert_imbalance: FloatArray
    expert_capacity: FloatArray
    expert_padding: FloatArray
    expert_node_limit: FloatArray
    dispatch_by_node: FloatArray
    expert_copies: FloatArray
    experts_apart: FloatArray
    schedule: FloatArray
    optimizer: FloatArray
    first_stage_layers: FloatArray
    last_stage_layers: FloatArray
    micro_batch_size: FloatArray
    zero_stage: FloatArray
    zero_group: FloatArray
    reshard_after_forward: FloatArray
    prefetch_layers: FloatArray
    gradient_bucket: FloatArray
    sequence_parallel: FloatArray
    recompute_core: FloatArray
    recompute_all: FloatArray
    recompute_layers: FloatArray
    recompute_share: FloatArray
    recompute_needed: FloatArray
    recompute_kept: FloatArray
    recompute_named: FloatArray
    recompute_modules: FloatArray
    overlap_grad_reduce: FloatArray
    overlap_param_gather: FloatArray
    overlap_tensor_parallel: FloatArray
    split_ring: FloatArray
    split_pipelined: FloatArray
    tensor_chunks: FloatArray
    overlap_expert_parallel: FloatArray
    overlap_shared_experts: FloatArray
    overlap_pipeline_p2p: FloatArray
    overlap_offload: FloatArray
    free_gradients: FloatArray
    deepspeed: FloatArray
    loss_copies: FloatArray
    loss_compiled: FloatArray
    loss_chunked: FloatArray
    fragmentation: FloatArray
    collective_algorithm: FloatArray
    tensor_stride: FloatArray
    context_stride: FloatArray
    data_stride: FloatArray
    pipeline_stride: FloatArray
    update_on_host: FloatArray
    offload: Mapping[str, FloatArray]
    stage_layers: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionColumns:
    """Bytes per element by tensor class [byte]; ``quantised`` is 1 where products need a quantise pass.

    ``optimizer`` are all states of a parameter: the ``master`` copy of the weights and moments, one of which has
    ``moment``; ``optimizer_ends`` those of embedding and head.
    """

    weights: FloatArray
    plain_weights: FloatArray
    weights_operand: FloatArray
    activations: FloatArray
    operand: FloatArray
    kv_cache: FloatArray
    gradients: FloatArray
    master: FloatArray
    moment: FloatArray
    optimizer: FloatArray
    optimizer_ends: FloatArray
    gradient_communication: FloatArray
    activation_communication: FloatArray
    quantised: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceColumns:
    """One accelerator: peaks of the compute types in use, memory, power, energy, kernel coefficients.

    Host memory and NVMe: the device's share of a node's capacity [byte], one way of its link [byte/s] and the energy of
    a byte that passes it [J/byte]; the device's share of the host's memory bandwidth [byte/s] and of its processors
    [FLOP/s]; NaN where the system declares none. ``units`` compute units [1] at ``clock_hz`` [Hz]; ``between_s`` the
    host's time between operators of eager code [s]; ``kernels`` holds by kernel family its coefficients by name [SI],
    ``doubts`` the relative standard deviations of its times by size class, and the "common" part of them [1],
    ``fitted_ranges`` the least and largest sizes that were fitted [1].
    """

    units: FloatArray
    clock_hz: FloatArray
    matmul_flop_per_s: FloatArray
    attention_flop_per_s: FloatArray
    vector_flop_per_s: FloatArray
    memory_bandwidth_bytes_per_s: FloatArray
    memory_capacity_bytes: FloatArray
    host_capacity_bytes: FloatArray
    host_link_bytes_per_s: FloatArray
    nvme_capacity_bytes: FloatArray
    nvme_link_bytes_per_s: FloatArray
    host_j_per_byte: FloatArray
    nvme_j_per_byte: FloatArray
    host_memory_bytes_per_s: FloatArray
    host_vector_flop_per_s: FloatArray
    reserved_bytes: FloatArray
    sparse_speedup: FloatArray
    power_limit_w: FloatArray
    idle_w: FloatArray
    host_w_per_device: FloatArray
    between_s: FloatArray
    matmul_j_per_flop: FloatArray
    attention_j_per_flop: FloatArray
    vector_j_per_flop: FloatArray
    memory_j_per_byte: FloatArray
    supported: FloatArray
    kernels: Mapping[str, Mapping[str, FloatArray]]
    doubts: Mapping[str, Mapping[str, FloatArray]]
    fitted_ranges: Mapping[str, Mapping[str, FloatArray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgorithmColumns:
    """Coefficients of one collective algorithm on one tier.

    ``offered`` is 1 where the software has the algorithm; efficiencies [1] are shares of the bandwidth of links and of
    host bridges; latencies [s] once and per exchange; ``ramp`` and ``own_chunk`` weigh the terms of
    :mod:`simulator.communication.collective_time` [1].
    """

    offered: FloatArray
    efficiency: FloatArray
    bridge_efficiency: FloatArray
    base_latency_s: FloatArray
    step_latency_s: FloatArray
    ramp: FloatArray
    own_chunk: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TierColumns:
    """One tier of the fabric, as one rank sees it.

    ``topology`` is a code (`simulator.communication.placement.TOPOLOGIES`); bandwidth is one way per link; ``links``
    per accelerator; ``axis_0`` to ``axis_2`` are the lengths of a torus or mesh, 1 elsewhere, and ``wrap`` is 1 where
    its ends are joined; ``block`` nodes share full bandwidth and leave their block at 1 / ``oversubscription`` of
    it; ``bridge`` accelerators share a host bridge of ``bridge_bytes_per_s`` (1 and infinite where there is none);
    ``wired`` holds what the graph of a wired node gives to groups by kind, size and stride ("ring 4 2", "hops 4 2",
    "all 4 2") [1];
    ``compute_share`` is the part of the compute units that a running exchange occupies. ``domain`` accelerators are
    joined by one domain of the tier (of the outermost one: all) [1]; ``uplinks`` is 1 where the ports into the tier
    belong to the switches of the tier inside, whose links a message crosses too.
    """

    topology: FloatArray
    link_bytes_per_s: FloatArray
    links: FloatArray
    in_switch: FloatArray
    axis_0: FloatArray
    axis_1: FloatArray
    axis_2: FloatArray
    wrap: FloatArray
    block: FloatArray
    oversubscription: FloatArray
    bridge: FloatArray
    bridge_bytes_per_s: FloatArray
    compute_share: FloatArray
    j_per_byte: FloatArray
    algorithms: Mapping[str, AlgorithmColumns]
    wired: Mapping[str, FloatArray] = field(default_factory=dict)
    domain: FloatArray = field(default_factory=lambda: np.full(1, np.inf))
    uplinks: FloatArray = field(default_factory=lambda: np.zeros(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricColumns:
    """Tiers from the inside out, and how many accelerators sit inside the inner one [1].

    ``beyond`` holds what joins domains of the outer tier, by place from the inside out ("0", "1", ...).
    """

    accelerators_per_node: FloatArray
    max_devices: FloatArray
    inner: TierColumns
    outer: TierColumns
    beyond: Mapping[str, TierColumns] = field(default_factory=dict)

    @property
    def across(self) -> tuple[TierColumns, ...]:
        """The tiers outside a node, from the inside out."""
        return (self.outer, *self.beyond.values())

    @property
    def units(self) -> tuple[FloatArray, ...]:
        """Accelerators of one of the things that each tier of ``across`` joins: nodes, then domains [1]."""
        return (self.accelerators_per_node, *(tier.domain for tier in self.across[:-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything a partition of scenarios is evaluated from."""

    model: ModelColumns
    task: TaskColumns
    plan: PlanColumns
    precision: PrecisionColumns
    device: DeviceColumns
    fabric: FabricColumns


C = TypeVar("C")


def take(columns: C, index: IndexArray) -> C:
    """Rows ``index`` of a columns object; arrays of length one stay as they are.

    Parameters
    ----------
    columns : one of the classes of this module
        Nested objects and mappings are followed.
    index : ndarray of int, shape (k,)
        Rows to keep.

    Returns
    -------
    same class
        Arrays of shape (k,) or (1,).

    Raises
    ------
    IndexError
        If a row is out of range.
    """

    def pick(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value if value.shape[0] == 1 else value[index]
        if isinstance(value, Mapping):
            return {key: pick(item) for key, item in value.items()}
        return take(value, index)

    return replace(columns, **{f.name: pick(getattr(columns, f.name)) for f in fields(columns)})  # type: ignore[type-var, arg-type]


def n_rows(columns: Any) -> int:
    """Rows that a columns object stands for: the longest of its arrays."""
    if isinstance(columns, np.ndarray):
        return int(columns.shape[0])
    if isinstance(columns, Mapping):
        return max((n_rows(item) for item in columns.values()), default=1)
    return max(n_rows(getattr(columns, f.name)) for f in fields(columns))
