"""Which combinations of model, machine, task and plan make sense: named rules over arrays.

Run, sweep and search ask the same rules. A rule says where it is broken; the message is written only for rows
that are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from hardware_specs.errors import Problem
from simulator.arrays.columns import FabricColumns, FloatArray, ModelColumns, PlanColumns, TaskColumns
from simulator.arrays.shared_columns import dense
from simulator.communication.collective_algorithms import ALGORITHMS

BoolArray = NDArray[np.bool_]
IN_SWITCH = float(ALGORITHMS.index("in_switch"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """Columns that legality looks at.

    ``supported`` is 1 where the device has units for the compute types; ``tasks`` and ``inference_only`` are
    0/1: whether the task trains and whether precision or compression allow inference only; ``encoder`` and
    ``generates`` whether the model's tokens see each other and whether the task makes new ones; ``eager`` whether
    each pointwise step is a kernel of its own; ``unfused`` whether attention is several kernels; ``gated`` whether
    MLPs are;
    ``uneven_stages`` is a plan column that nothing else reads; ``stores`` has by tier for offload 1 where the system
    declares it, and "host_update" where it says what its processors and their memory do.
    """

    model: ModelColumns
    task: TaskColumns
    plan: PlanColumns
    fabric: FabricColumns
    supported: FloatArray
    training: FloatArray
    inference_only: FloatArray
    learned_positions: FloatArray
    encoder: FloatArray
    generates: FloatArray
    eager: FloatArray
    unfused: FloatArray
    uneven_stages: FloatArray
    gated: FloatArray
    stores: Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class LegalityRule:
    """One rule: its name, where it is broken, and how to say so for one row."""

    name: str
    broken: Callable[[Combination], BoolArray]
    explain: Callable[[Combination], Problem]


RULES: list[LegalityRule] = []


def legality_rule(
    name: str, explain: Callable[[Combination], Problem]
) -> Callable[[Callable[[Combination], BoolArray]], Callable[[Combination], BoolArray]]:
    """Register a rule by name with its message (called with a combination of length one)."""

    def register(function: Callable[[Combination], BoolArray]) -> Callable[[Combination], BoolArray]:
        RULES.append(LegalityRule(name=name, broken=function, explain=explain))
        return function

    return register


def one_of(values: FloatArray) -> str:
    """The one value of a combination of length one, as text."""
    return f"{float(values[0]):.10g}"


def divisors(value: float, limit: int = 12) -> str:
    """Divisors of a whole number as text, at most ``limit`` of them."""
    found = [str(d) for d in range(1, int(min(value, 10**5)) + 1) if value % d == 0]
    return ", ".join(found[:limit]) + (", ..." if len(found) > limit else "")


def nearest(wanted: float, possible: Iterable[float]) -> str:
    """The possible values on both sides of a wanted one, as text; empty where there are none."""
    found = sorted(possible)
    below, above = [v for v in found if v < wanted], [v for v in found if v > wanted]
    return " or ".join(f"{v:.10g}" for v in [*below[-1:], *above[:1]])


def _degrees(c: Combination) -> Problem:
    p = c.plan
    context = float(p.context_parallel[0])
    inner = float((p.tensor_parallel * p.pipeline_parallel)[0]) * context
    devices, data = float(p.devices[0]), float(p.data_parallel[0])
    written = f"{one_of(p.tensor_parallel)} tensor x {one_of(p.pipeline_parallel)} pipeline"
    written += f" x {context:g} context" if context > 1 else ""
    if devices % inner == 0:
        rule = f"the degrees multiply to {inner * data:g}, not to the {devices:g} devices"
        fix = f"set data_parallel to {devices / inner:g} or leave it out"
        return Problem(path="plan", value=f"{written} x {data:g} data", rule=rule, fix=fix)
    rule = f"the degrees must multiply to the {devices:g} devices, and {inner:g} does not divide them"
    fix = f"use degrees whose product is one of {divisors(devices)}, or other devices"
    return Problem(path="plan", value=written, rule=rule, fix=fix)


@legality_rule("degrees multiply to devices", _degrees)
def _degrees_broken(c: Combination) -> BoolArray:
    p = c.plan
    product = p.tensor_parallel * p.pipeline_parallel * p.gradient_ranks
    return (product != p.devices) | (p.data_parallel != np.floor(p.data_parallel))


@legality_rule(
    "devices fill whole nodes",
    lambda c: Problem(
        path="devices",
        value=one_of(c.plan.devices),
        rule=f"must be part of one node or whole nodes of {one_of(c.fabric.accelerators_per_node)}",
        fix=f"use at most {one_of(c.fabric.accelerators_per_node)}, or a multiple of it",
    ),
)
def _whole_nodes(c: Combination) -> BoolArray:
    node = c.fabric.accelerators_per_node
    return (c.plan.devices > node) & (np.mod(c.plan.devices, node) != 0)


@legality_rule(
    "system has the devices",
    lambda c: Problem(
        path="devices",
        value=one_of(c.plan.devices),
        rule=f"is more than the {one_of(c.fabric.max_devices)} that the system joins",
        fix="use fewer, or another system",
    ),
)
def _enough_devices(c: Combination) -> BoolArray:
    return c.plan.devices > c.fabric.max_devices


@legality_rule(
    "switch adds up",
    lambda c: Problem(
        path="plan.collective_algorithm",
        value="in_switch",
        rule="needs a switch that adds up, and that of the system's nodes does not",
        fix="use auto or another algorithm, or set system.scale_up.in_switch_reduction",
    ),
)
def _in_switch(c: Combination) -> BoolArray:
    return (c.plan.collective_algorithm == IN_SWITCH) & (c.fabric.inner.in_switch == 0)


@legality_rule(
    "tiers join whole domains",
    lambda c: Problem(
        path="system.scale_out.domain",
        value=one_of(c.fabric.outer.domain),
        rule="is no multiple of what the tier inside joins, or that of a further tier is no multiple of this one",
        fix="use domains that divide each other",
    ),
)
def _domains(c: Combination) -> BoolArray:
    # False, but unknown as long as the fabric is: rows that grow axis by axis ask again then.
    broken: BoolArray = c.fabric.outer.domain < 0
    if not c.fabric.beyond:
        return broken
    sizes: list[FloatArray] = [*c.fabric.units, np.full(1, np.inf)]
    for inside, domain, beyond in zip(sizes, sizes[1:], sizes[2:], strict=False):
        # A domain that holds all accelerators is the outermost: nothing joins it.
        joined = np.isfinite(beyond) | (domain < c.fabric.max_devices)
        broken = broken | (joined & (np.mod(domain, inside) != 0))
    return broken


@legality_rule(
    "torus slice is listed",
    lambda c: Problem(
        path="devices",
        value=one_of(c.plan.devices),
        rule="is not the size of a listed slice of this torus",
        fix="use a listed slice (llmsim show SYSTEM) or set system.scale_up.shape",
    ),
)
def _slice(c: Combination) -> BoolArray:
    return np.isnan(c.fabric.inner.axis_0)


@legality_rule(
    "tensor divides heads",
    lambda c: Problem(
        path="plan.tensor_parallel",
        value=one_of(c.plan.tensor_parallel),
        rule=f"must divide the {one_of(c.model.heads)} attention heads",
        fix=f"use {divisors(float(c.model.heads[0]))}",
    ),
)
def _heads(c: Combination) -> BoolArray:
    return np.mod(c.model.heads, c.plan.tensor_parallel) != 0


@legality_rule(
    "tensor fits kv heads",
    lambda c: Problem(
        path="plan.tensor_parallel",
        value=one_of(c.plan.tensor_parallel),
        rule=f"must divide the {one_of(c.model.kv_heads)} key-value heads, or be a multiple of them and replicate them",
        fix=f"use {divisors(float(c.model.kv_heads[0]))} or a multiple of {one_of(c.model.kv_heads)}",
    ),
)
def _kv_heads(c: Combination) -> BoolArray:
    kv, tensor = c.model.kv_heads, c.plan.tensor_parallel
    return (np.mod(kv, tensor) != 0) & (np.mod(tensor, kv) != 0)


def _inner(c: Combination) -> FloatArray:
    """Inner width of the MLP, or of one expert."""
    return np.where(c.model.experts > 0, c.model.moe_ffn, c.model.ffn)


@legality_rule(
    "tensor divides ffn",
    lambda c: Problem(
        path="plan.tensor_parallel",
        value=one_of(c.plan.tensor_parallel),
        rule=f"must divide the {one_of(_undivided(c))} columns of "
        + ("an expert" if c.model.experts[0] and _undivided(c)[0] == _inner(c)[0] else "the MLP"),
        fix=f"use {divisors(float(_undivided(c)[0]))}",
    ),
)
def _ffn(c: Combination) -> BoolArray:
    m, p = c.model, c.plan
    parts = np.where(m.experts > 0, p.expert_tensor_parallel, p.tensor_parallel)
    plain = (np.mod(m.shared_ffn, p.tensor_parallel) != 0) | (np.mod(_beside(c), p.tensor_parallel) != 0)
    return (np.mod(_inner(c), parts) != 0) | plain


def _beside(c: Combination) -> FloatArray:
    """Inner width of the MLP of layers without experts where others have some, else 0."""
    return np.where((c.model.first_dense > 0) | (c.model.experts_every > 1), c.model.ffn, 0.0)


def _undivided(c: Combination) -> FloatArray:
    """The width that tensor ranks do not divide: of layers without experts if it is theirs, else the inner one."""
    return np.where(np.mod(_beside(c), c.plan.tensor_parallel) != 0, c.model.ffn, _inner(c))


@legality_rule(
    "tensor divides sequence",
    lambda c: Problem(
        path="plan.sequence_parallel",
        value="true",
        rule=f"needs the {one_of(c.task.query_length / c.plan.context_parallel)} tokens of a sequence on a rank to "
        f"divide by tensor_parallel {one_of(c.plan.tensor_parallel)}",
        fix="pad the sequence or switch it off",
    ),
)
def _sequence(c: Combination) -> BoolArray:
    tokens = c.task.query_length / c.plan.context_parallel
    # Where context ranks do not divide the sequence, they are the mistake.
    per_sequence = (np.mod(tokens, c.plan.tensor_parallel) != 0) & (tokens == np.floor(tokens))
    per_pass = np.mod(c.plan.micro_batch_size * c.task.query_length, c.plan.tensor_parallel) != 0
    return (c.plan.sequence_parallel > 0) & np.where(c.training > 0, per_sequence, per_pass)


@legality_rule(
    "products are cut where they overlap",
    lambda c: Problem(
        path="plan.tensor_parallel_split",
        value="_".join(word for word in ("ring", "pipelined") if getattr(c.plan, f"split_{word}")[0] > 0),
        rule="cuts products with the all-gathers and reduce-scatters that overlap_tensor_parallel hides and that "
        "sequence parallelism makes",
        fix="switch plan.overlap_tensor_parallel and plan.sequence_parallel on, or leave it out",
    ),
)
def _cut_products(c: Combination) -> BoolArray:
    p = c.plan
    wanted = (p.split_ring + p.split_pipelined > 0) & (p.tensor_parallel > 1)
    return wanted & ((p.overlap_tensor_parallel == 0) | (p.sequence_parallel == 0))


@legality_rule(
    "latent attention is trained",
    lambda c: Problem(
        path="task.kind",
        value="prefill, decode or generation",
        rule="a cache of latents is not modelled yet",
        fix="use training",
    ),
)
def _latent(c: Combination) -> BoolArray:
    return (c.model.kv_rank > 0) & (c.training == 0)


@legality_rule(
    "latent attention is fused",
    lambda c: Problem(
        path="plan.attention_kernel",
        value="unfused or eager",
        rule="latent attention is modelled as a fused kernel",
        fix="use attention_kernel flash and kernel_fusion fused",
    ),
)
def _latent_fused(c: Combination) -> BoolArray:
    return (c.model.kv_rank > 0) & ((c.unfused > 0) | (c.eager > 0))


def _batch(c: Combination) -> Problem:
    p = c.plan
    step = float((p.data_parallel * p.micro_batch_size)[0])
    batch = float(c.task.batch[0])
    trains = bool(c.training[0] > 0)
    if not trains:
        step = float(p.data_parallel[0])
    below, above = batch // step * step, (batch // step + 1) * step
    replica = f" x micro_batch_size {one_of(p.micro_batch_size)} = {step:.10g}" if trains else ""
    return Problem(
        path="task.global_batch_size" if trains else "task.batch_size",
        value=f"{batch:.10g}",
        rule=f"must be a multiple of data_parallel {one_of(p.data_parallel)}{replica}",
        fix=f"use {f'{below:.10g} or ' if below else ''}{above:.10g}",
    )


@legality_rule("batch divides", _batch)
def _batch_broken(c: Combination) -> BoolArray:
    p = c.plan
    step = np.where(c.training > 0, p.data_parallel * p.micro_batch_size, p.data_parallel)
    # Where the replicas are no whole number, the degrees are the mistake.
    return (np.mod(c.task.batch, step) != 0) & (p.data_parallel == np.floor(p.data_parallel))


@legality_rule(
    "micro-batch within replica",
    lambda c: Problem(
        path="plan.micro_batch_size",
        value=one_of(c.plan.micro_batch_size),
        rule=f"is more than the {float(c.task.batch[0] / c.plan.data_parallel[0]):g} sequences of one replica",
        fix="use a smaller one",
    ),
)
def _micro_batch(c: Combination) -> BoolArray:
    whole = c.plan.data_parallel == np.floor(c.plan.data_parallel)
    return whole & (c.plan.micro_batch_size > c.task.batch / c.plan.data_parallel)


def recompute_word(c: Combination) -> str:
    """What the one plan of a combination says of recomputation; raises nothing."""
    return (
        "needed"
        if c.plan.recompute_needed[0]
        else "modules"
        if c.plan.recompute_named[0]
        else "full"
        if c.plan.recompute_all[0]
        else "selective"
        if c.plan.recompute_core[0]
        else "none"
    )


def _training_keys(c: Combination) -> dict[str, BoolArray]:
    """Where keys that only training reads differ from their defaults."""
    p = c.plan
    return {
        "zero_stage": p.zero_stage > 0,
        "recompute": (p.recompute_core > 0) | (p.recompute_named > 0),
        "optimizer": p.optimizer > 0,
        "loss": (p.loss_copies + p.loss_compiled + p.loss_chunked) > 0,
        "engine": p.deepspeed > 0,
        "fragmentation": p.fragmentation > 0,
        "free_gradients": p.free_gradients > 0,
        "gradient_bucket": ~np.isnan(p.gradient_bucket),
        "optimizer_step": p.update_on_host > 0,
    }


def _training_only_problem(c: Combination) -> Problem:
    given = [name for name, broken in _training_keys(c).items() if broken[0]]
    values = {"zero_stage": one_of(c.plan.zero_stage), "recompute": recompute_word(c)}
    return Problem(
        path="plan",
        value=", ".join(f"{name} {values.get(name, '')}".strip() for name in given),
        rule=f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'} for training",
        fix=f"leave {'them' if len(given) > 1 else 'it'} out of an inference plan",
    )


@legality_rule("training options need training", _training_only_problem)
def _training_only(c: Combination) -> BoolArray:
    return (c.training == 0) & reduce(np.logical_or, _training_keys(c).values())


@legality_rule(
    "sharing ranks divide the replicas",
    lambda c: Problem(
        path="plan.zero_group",
        value=one_of(c.plan.zero_group),
        rule=f"must divide the {one_of(c.plan.gradient_ranks)} ranks that hold the same parameters",
        fix=f"use {divisors(float(c.plan.gradient_ranks[0]))}, or leave it out",
    ),
)
def _zero_group(c: Combination) -> BoolArray:
    p = c.plan
    # Where the replicas are no whole number, the degrees are the mistake.
    return (np.mod(p.gradient_ranks, p.zero_group) != 0) & (p.data_parallel == np.floor(p.data_parallel))


def _weights_problem(c: Combination) -> Problem:
    keeps = bool(c.plan.reshard_after_forward[0] == 0)
    return Problem(
        path=f"plan.{'reshard_after_forward' if keeps else 'prefetch_layers'}",
        value="false" if keeps else one_of(c.plan.prefetch_layers),
        rule=f"is of weights that are gathered, and with zero_stage {one_of(c.plan.zero_stage)} none are",
        fix="leave it out, or use zero_stage 3",
    )


@legality_rule("gathered weights are sharded", _weights_problem)
def _gathered_weights(c: Combination) -> BoolArray:
    p = c.plan
    return (p.zero_stage < 3) & ((p.reshard_after_forward == 0) | (p.prefetch_layers != 1))


@legality_rule(
    "buckets are exchanged at the end",
    lambda c: Problem(
        path="plan.gradient_bucket",
        value=one_of(c.plan.gradient_bucket),
        rule=f"zero_stage {one_of(c.plan.zero_stage)} exchanges gradients layer by layer in every micro-batch",
        fix="leave it out, or use zero_stage 0 or 1",
    ),
)
def _buckets(c: Combination) -> BoolArray:
    return ~np.isnan(c.plan.gradient_bucket) & (c.plan.zero_stage >= 2)


@legality_rule(
    "sharing ranks share something",
    lambda c: Problem(
        path="plan.zero_group",
        value=one_of(c.plan.zero_group),
        rule="with zero_stage 0 every rank has a copy of its own",
        fix="leave it out, or use zero_stage 1, 2 or 3",
    ),
)
def _zero_group_without_zero(c: Combination) -> BoolArray:
    return (c.plan.zero_group != c.plan.gradient_ranks) & (c.plan.zero_stage == 0)


@legality_rule(
    "inference types are not trained",
    lambda c: Problem(
        path="plan.precision",
        value="",
        rule="this precision, or the plan's compression, is for inference only",
        fix="train in bf16, fp16 or fp8, and without sparsity_2_4",
    ),
)
def _inference_types(c: Combination) -> BoolArray:
    return (c.training > 0) & (c.inference_only > 0)


@legality_rule(
    "device has the compute type",
    lambda c: Problem(
        path="plan.precision",
        value="",
        rule="the device has no units for this compute type",
        fix="use a type it has (llmsim show SYSTEM), or set plan.fallback: allow",
    ),
)
def _supported(c: Combination) -> BoolArray:
    return c.supported == 0


@legality_rule(
    "positions cover the sequence",
    lambda c: Problem(
        path="task",
        value=f"{float(np.maximum(c.task.cached_length, c.task.kv_length)[0]):g} tokens",
        rule=f"is more than the {one_of(c.model.positions)} learned positions of the model",
        fix="use shorter sequences",
    ),
)
def _positions(c: Combination) -> BoolArray:
    return (c.learned_positions > 0) & (
        np.maximum(c.task.kv_length, c.task.cached_length) > c.model.positions
    )


@legality_rule(
    "an encoder writes no tokens",
    lambda c: Problem(
        path="task.kind",
        value="decode or generation",
        rule="an encoder writes no tokens",
        fix="use prefill, its forward pass",
    ),
)
def _encoder(c: Combination) -> BoolArray:
    return (c.encoder > 0) & (c.generates > 0)


@legality_rule(
    "experts run in grouped kernels",
    lambda c: Problem(
        path="plan.kernel_fusion",
        value="eager",
        rule="experts that run one after the other, as eager code does, are not modelled",
        fix="use fused",
    ),
)
def _eager_experts(c: Combination) -> BoolArray:
    return (c.eager > 0) & (c.model.experts > 0)


def redundant(c: Combination, generated: Collection[str]) -> BoolArray:
    """Plans that only repeat another one: sharding over one replica, sequence parallelism on one rank.

    Only keys that a search has enumerated itself (``generated``) are looked at: what was asked for stays. Raises
    nothing.
    """
    p = c.plan
    repeats = np.zeros(1, dtype=bool)
    if "zero_stage" in generated:
        repeats = repeats | ((p.zero_stage > 0) & (p.data_parallel == 1))
    if "sequence_parallel" in generated:
        repeats = repeats | ((p.sequence_parallel > 0) & (p.tensor_parallel == 1))
    return repeats


def first_broken(
    c: Combination, n_rows: int, rules: Sequence[LegalityRule] | None = None
) -> NDArray[np.intp]:
    """Index of the first rule that each row breaks, -1 where it is legal; shape (n_rows,); raises nothing."""
    found = np.full(n_rows, -1, dtype=np.intp)
    for number, entry in enumerate(RULES if rules is None else rules):
        broken = np.broadcast_to(dense(entry.broken(c)), (n_rows,))
        found[(found < 0) & broken] = number
    return found


def problems(c: Combination) -> list[Problem]:
    """Every rule that one combination (arrays of length one) breaks, as messages."""
    return [entry.explain(c) for entry in RULES if bool(np.any(entry.broken(c)))]
