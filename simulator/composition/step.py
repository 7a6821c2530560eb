"""From blocks to a step: pipeline, exchanges at its end, optimizer; then memory, energy and utilisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import Inputs
from simulator.certainty.intervals import TimeDoubt, joined, stretched
from simulator.communication.collectives import exchange
from simulator.communication.direct_messages import stage_message
from simulator.communication.placement import place
from simulator.communication.wires import Wires
from simulator.composition.blocks import BlockCost, cost_block
from simulator.composition.data_parallel import (
    EndOfStep,
    Replicas,
    UnitExchanges,
    apart,
    buckets_of,
    end_of_step,
    exposed_exchange,
    replica_group,
    unit_exchanges,
)
from simulator.composition.energy import Energy, Orthogonal, step_energy
from simulator.composition.host_update import on_host
from simulator.composition.layer_table import LayerTable
from simulator.composition.memory import Memory, memory
from simulator.composition.model_states import stage_parameters
from simulator.composition.offload import offloads
from simulator.composition.offloaded_step import StepCopies, copies_of_passes, copies_of_step
from simulator.composition.pipeline import StageLayers, exposed_p2p, stage_layers
from simulator.composition.pipeline_step import decoding_time, scheduled_time
from simulator.composition.shared_wires import (
    StageTraffic,
    beside_hidden,
    closing_sharing,
    crowded_s,
    stage_traffic,
)
from simulator.composition.stage_kinds import StageKinds, ends_apart, stage_kinds
from simulator.composition.stages import PassCopies, StageTimes, no_copies, stage_times
from simulator.composition.utilisation import (
    TRAINING_PASSES,
    flop_utilisation,
    forward_flop_per_token,
    multiplied_parameters,
    recomputed_flop_per_token,
)
from simulator.kernels.counting import STATISTICS_BYTES
from simulator.per_device.optimizers import CODE
from simulator.per_device.structure import Structure
from simulator.rules import at, rule
from workloads.attention import keys_in_cache
from workloads.layer_kinds import dense_layers, over_layers
from workloads.optimizer_graph import optimizer_step

FloatArray = NDArray[np.float64]
ZERO: FloatArray = np.zeros(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of many plans: exposed seconds by cause [s], memory [byte], energy [J], utilisation [1].

    The seconds sum to ``step_time_s``, which may be off by ``doubt``. ``stages`` and ``kinds`` are kept for the
    operator table.
    """

    step_time_s: FloatArray
    compute_s: FloatArray
    tensor_parallel_s: FloatArray
    context_parallel_s: FloatArray
    expert_parallel_s: FloatArray
    offload_s: FloatArray
    data_parallel_s: FloatArray
    pipeline_p2p_s: FloatArray
    bubble_s: FloatArray
    optimizer_s: FloatArray
    tokens_per_s: FloatArray
    mfu: FloatArray
    hfu: FloatArray
    micro_batches: FloatArray
    memory: Memory
    energy: Energy
    copies: StepCopies
    stages: StageTimes
    kinds: StageKinds
    optimizer: BlockCost | None
    end: EndOfStep | None
    orthogonal: Orthogonal | None
    end_reduce_s: FloatArray
    end_gather_s: FloatArray
    doubt: TimeDoubt


@rule(
    symbol="T",
    formula="pipeline + p2p + gradients + optimizer + copies + new weights",
    unit="s",
    source="parts of a step that follow each other on the slowest stage",
)
def step_seconds(
    *,
    pipeline_s: FloatArray,
    p2p_s: FloatArray,
    gradients_s: FloatArray,
    optimizer_s: FloatArray,
    weights_s: FloatArray,
    copies_s: FloatArray,
) -> FloatArray:
    """Time of one step [s] from its consecutive parts [s]; broadcasts; raises nothing."""
    return pipeline_s + p2p_s + gradients_s + optimizer_s + copies_s + weights_s


@rule(symbol="R", formula="tokens / T", unit="token/s", source="definition")
def token_rate(*, tokens: FloatArray, seconds: FloatArray) -> FloatArray:
    """Tokens of a step [1] over its time [s]; raises nothing for positive times."""
    return tokens / seconds


def micro_batches_per_replica(inputs: Inputs) -> FloatArray:
    """Micro-batches that one replica runs per step [1]; the last may be smaller (inference only)."""
    plan = inputs.plan
    return np.ceil(inputs.task.batch / plan.data_parallel / plan.micro_batch_size)


def layers_by_stage(inputs: Inputs) -> StageLayers:
    """Layers of each kind of stage under the plan [1]; raises nothing."""
    plan, model = inputs.plan, inputs.model
    return stage_layers(
        model.n_layers,
        plan.pipeline_parallel,
        model.first_dense,
        first_given=plan.first_stage_layers,
        last_given=plan.last_stage_layers,
    )


def kinds_of_stage(inputs: Inputs) -> StageKinds:
    """What each kind of stage holds under the plan; raises nothing."""
    return stage_kinds(layers_by_stage(inputs), inputs.plan, inputs.model.first_dense)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineMessages:
    """Point-to-point traffic of a step: what it adds [s], its energy over all devices [J], one message's wires [s]."""

    exposed_s: FloatArray
    energy_j: FloatArray
    wires: Wires


def _messages(
    inputs: Inputs, micro_batches: FloatArray, ways: float, traffic: StageTraffic
) -> PipelineMessages:
    """Activations to the next stage and gradients back.

    Ranks of a tensor group hold equal outputs: each sends its share, and the receivers gather them, unless
    sequence parallelism keeps the shares (arXiv:2104.04473, section 4.1).
    """
    plan, fabric = inputs.plan, inputs.fabric
    tokens = plan.micro_batch_size * inputs.task.query_length / plan.context_parallel
    whole = tokens * inputs.model.hidden * inputs.precision.activation_communication
    share, ranks = whole / plan.tensor_parallel, plan.tensor_parallel * plan.gradient_ranks
    with at("time.pipeline_p2p_s"):
        sent = stage_message(share, plan.pipeline_stride, plan.pipeline_parallel, fabric)
        tensor = place(plan.tensor_parallel, plan.tensor_stride, plan.devices, fabric)
        joined = exchange("all_gather", whole, tensor, fabric, plan.collective_algorithm)
        gather_s = joined.seconds * (1.0 - plan.sequence_parallel)
        sent, wires = beside_hidden(sent, share, traffic, inputs)
        exposed = exposed_p2p(
            fill_s=sum((n * (seconds + gather_s) for seconds, n in sent.by_tier), ZERO),
            slowest_s=gather_s + sent.slowest_s(),
            pipeline_parallel=plan.pipeline_parallel,
            virtual_pipeline=plan.virtual_pipeline,
            micro_batches=micro_batches,
            overlap=plan.overlap_pipeline_p2p,
            ways=ways,
        )
    if np.any(plan.overlap_pipeline_p2p):
        with at("time.pipeline_p2p_s"):
            once = crowded_s(wires.times(ways * plan.virtual_pipeline), traffic)
        exposed = exposed + plan.overlap_pipeline_p2p * np.maximum(micro_batches - 1.0, 0.0) * once
    tiers = (fabric.inner, *fabric.across)
    per_byte = sum((n * tier.j_per_byte for (_, n), tier in zip(sent.by_tier, tiers, strict=True)), ZERO)
    # Every device of a stage sends its share, once per micro-batch, way and chunk.
    return PipelineMessages(
        exposed_s=exposed,
        wires=wires,
        energy_j=ways * plan.virtual_pipeline * micro_batches * ranks * share * per_byte,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Closing:
    """What training does once, after the last micro-batch."""

    reduce_s: FloatArray
    gather_s: FloatArray
    optimizer: BlockCost | None
    optimizer_s: FloatArray
    end: EndOfStep | None
    orthogonal: Orthogonal | None = None


def _closing(
    inputs: Inputs,
    table: LayerTable,
    kinds: StageKinds,
    stages: StageTimes,
    group: Replicas,
    message: Wires,
    *,
    tied: bool,
) -> _Closing:
    plan = inputs.plan
    held = stages.most(
        tuple(
            kinds.copies * stage_parameters(table, k.layers, first=k.embedding, last=k.head, tied=tied)
            for k in kinds
        )
    )
    most = stages.most(kinds.by_stage("layers"))
    held, experts = apart(held, kinds.copies * most * table.expert_parameters, inputs)
    end = end_of_step(
        inputs,
        held,
        experts,
        group,
        tied_parameters=table.head_matrix_parameters * ends_apart(plan) if tied else ZERO,
        copies=kinds.copies,
    )
    windows_s = [stages.least(stages.forward_s), stages.least(stages.backward_s)]
    buckets = buckets_of(held + experts, kinds.first.layers, inputs)
    beside = closing_sharing(table, stages, message, windows_s, (end.gather, end.reduce), inputs)
    with at("time.data_parallel_s.gradients"):
        reduce_s = exposed_exchange(
            exchange_s=end.reduce.seconds,
            # The stage with least to hide behind decides; the slowest one may change places with another, and jump.
            window_s=windows_s[1],
            buckets=buckets,
            overlap=plan.overlap_grad_reduce,
            compute_share=inputs.fabric.inner.compute_share,
            **beside[1],
        )
    with at("time.data_parallel_s.weights"):
        gather_s = exposed_exchange(
            exchange_s=end.gather.seconds,
            window_s=windows_s[0],
            buckets=buckets,
            overlap=plan.overlap_param_gather,
            compute_share=inputs.fabric.inner.compute_share,
            **beside[0],
        )
    owned = held / np.where(plan.zero_stage >= 1, plan.zero_group * kinds.copies, 1.0)
    if np.any(experts):
        owned = owned + experts / np.where(plan.zero_stage >= 1, plan.expert_copies * kinds.copies, 1.0)
    # The master copy is fp32, as wide as statistics are.
    narrow_weights = (inputs.precision.weights < STATISTICS_BYTES).astype(np.float64)
    graph = optimizer_step(
        owned,
        narrow_gradients=(inputs.precision.gradients < STATISTICS_BYTES).astype(np.float64),
        narrow_weights=narrow_weights,
        factored=(plan.optimizer == CODE["adafactor"]).astype(np.float64),
        weights_apart=(plan.optimizer > CODE["adamw"]) * (1.0 - narrow_weights),
    )
    optimizer = on_host(cost_block("optimizer.step", graph, inputs), inputs)
    orthogonal = _orthogonal(inputs, table, kinds, stages)
    return _Closing(
        # The shared matrix is summed after the last micro-batch, when both ends have their part; so are both copies.
        reduce_s=reduce_s + end.tied.seconds + end.mirrored.seconds,
        gather_s=gather_s,
        optimizer=optimizer,
        optimizer_s=optimizer.seconds + (orthogonal.seconds if orthogonal is not None else ZERO),
        orthogonal=orthogonal,
        end=end,
    )


def _orthogonal(
    inputs: Inputs, table: LayerTable, kinds: StageKinds, stages: StageTimes
) -> Orthogonal | None:
    """Muon's products on the stage with most layers: shards of the states deal whole matrices among their ranks."""
    plan = inputs.plan
    if not np.any(table.layer_orthogonal_s + table.expert_orthogonal_s):
        return None
    ranks, holders = (
        np.where(plan.zero_stage >= 1, sharers, 1.0) for sharers in (plan.zero_group, plan.expert_copies)
    )

    def of_rank(unit: str) -> FloatArray:
        layer, expert, front = (
            getattr(table, f"{of}_orthogonal_{unit}") for of in ("layer", "expert", "front")
        )
        of_layer = layer / ranks + expert / holders
        return stages.most(tuple(kind.layers * of_layer + kind.embedding * front / ranks for kind in kinds))

    return Orthogonal(seconds=of_rank("s"), flop=of_rank("flop"), moved_bytes=of_rank("bytes"))


def _doubt(
    inputs: Inputs,
    table: LayerTable,
    kinds: StageKinds,
    stages: StageTimes,
    micro_batches: FloatArray,
    closing: _Closing,
    messages_s: FloatArray,
) -> TimeDoubt:
    """What the slowest stage and the end of the step may be off by; the same kernel errs alike in every layer."""
    n = stages.at_slowest(kinds.by_stage("layers"))
    first = stages.at_slowest(kinds.by_stage("embedding"))
    last = stages.at_slowest(kinds.by_stage("head"))
    own = np.sqrt(
        n**2 * table.layer_variance_s2 + first * table.embedding_variance_s2 + last * table.head_variance_s2
    )
    shared = n * table.layer_shared_s + first * table.embedding_shared_s + last * table.head_shared_s
    doubts = [TimeDoubt(independent_s=micro_batches * own, shared_s=micro_batches * shared)]
    across = inputs.plan.devices > inputs.fabric.accelerators_per_node
    tier = {
        name: np.where(
            across, *(inputs.device.doubts[f"collective_{side}"][name] for side in ("outer", "inner"))
        )
        for name in ("all", "large", "common")
    }
    # Parameters and gradients of a layer are many megabytes; messages between stages are of any size.
    in_layer_s = micro_batches * stages.at_slowest(stages.data_s)
    exposed = ((in_layer_s, "large"), (closing.reduce_s, "large"), (closing.gather_s, "large"))
    for exchange_s, size in (*exposed, (messages_s, "all")):
        doubts.append(TimeDoubt(independent_s=exchange_s * tier[size], shared_s=exchange_s * tier["common"]))
    if closing.optimizer is not None:
        update = closing.optimizer
        doubts.append(TimeDoubt(independent_s=np.sqrt(update.variance_s2), shared_s=update.shared_s))
    return joined(*doubts)


def _attention_parameters(structure: Structure, inputs: Inputs) -> FloatArray:
    """Parameters of a layer's projections to and from attention, of the whole model [1]."""
    m = inputs.model
    if not structure.layer.latent:
        return m.hidden * (2.0 * m.heads * m.head_dim + 2.0 * m.kv_heads * m.head_dim)
    query, ranked = m.heads * m.head_dim, structure.layer.latent_query
    down_and_up = m.query_rank * (m.hidden + query) if ranked else m.hidden * query
    unfolded = m.heads * (m.head_dim - m.rope_dim + m.value_dim)
    keys = m.hidden * (m.kv_rank + m.rope_dim) + m.kv_rank * unfolded
    return down_and_up + keys + m.heads * m.value_dim * m.hidden


def _utilisation(
    structure: Structure, inputs: Inputs, table: LayerTable, tokens: FloatArray, seconds: FloatArray
) -> tuple[FloatArray, FloatArray]:
    model, plan = inputs.model, inputs.plan
    # A token meets the experts that it is sent to, the shared ones and the router.
    matrices, attention = 3.0 if structure.layer.gated_mlp else 2.0, _attention_parameters(structure, inputs)
    dense = attention + model.hidden * model.ffn * matrices
    matrix = dense
    if structure.layer.experts:
        inner = model.topk * model.moe_ffn + model.shared_ffn
        matrix = attention + model.hidden * (inner * matrices + model.experts)
        # The mean over layers with and without experts.
        matrix = matrix + (dense - matrix) * dense_layers(model) / model.n_layers
    kv_length = inputs.task.kv_length
    # Attention in full, by convention: of what a window or a chunk leaves, the mask takes nothing off.
    attended = over_layers(keys_in_cache(kv_length, model.window, model.chunk), kv_length, model)
    sizes = {
        "n_layers": model.n_layers,
        "heads": model.heads,
        # Scores have the width of a key, sums that of a value.
        "head_dim": (model.head_dim + model.value_dim) / 2.0 if structure.layer.latent else model.head_dim,
        "attended_tokens": attended,
    }
    training = structure.layer.computation == "training"
    with at("mfu"):
        of_tokens = {"all": np.ones(1), "last": 1.0 / inputs.task.query_length, "none": ZERO}
        head_tokens = of_tokens["all" if training else structure.layer.logits]
        # A transform in front of the head is a square matrix.
        before = model.hidden**2 if structure.layer.head_transform else ZERO
        parameters = multiplied_parameters(model, matrix, (model.vocab * model.hidden + before) * head_tokens)
        forward = forward_flop_per_token(multiplied_parameters=parameters, **sizes)
        flop = tokens * forward * (TRAINING_PASSES if training else 1.0)
        mfu = flop_utilisation(
            flop=flop, seconds=seconds, devices=plan.devices, peak_flop_per_s=inputs.device.matmul_flop_per_s
        )
    with at("hfu"):
        # Of named modules the core is counted by itself, and the part of the products that run again.
        part = table.layer_run_again
        again = recomputed_flop_per_token(
            layer_parameters=matrix,
            recompute_core=plan.recompute_core,
            recompute_all=plan.recompute_all + plan.recompute_named * plan.recompute_share * part,
            **sizes,
        )
        hfu = flop_utilisation(
            flop=flop
            + (tokens * np.where(plan.recompute_named > 0, 1.0, part) * again if training else ZERO),
            seconds=seconds,
            devices=plan.devices,
            peak_flop_per_s=inputs.device.matmul_flop_per_s,
        )
    return mfu, hfu


def times_of(
    kinds: StageKinds, structure: Structure, inputs: Inputs, table: LayerTable, units: UnitExchanges
) -> StageTimes:
    """Passes of one micro-batch on some kinds of stage, copies to other tiers included [s]; raises nothing."""
    training, tied = structure.layer.computation == "training", structure.layer.tied
    copies: PassCopies = no_copies
    if training and offloads(inputs):
        micro_batches = micro_batches_per_replica(inputs)
        copies = copies_of_passes(inputs, table, kinds, micro_batches, tied=tied)
    return stage_times(table, inputs, kinds, units, training=training, copies=copies)


def compose(structure: Structure, inputs: Inputs, table: LayerTable) -> Step:
    """Compose one step of every row.

    Parameters
    ----------
    structure : Structure
        Key of the partition.
    inputs : Inputs
        Rows.
    table : LayerTable
        Blocks, gathered to the same rows.

    Returns
    -------
    Step
        Arrays of the broadcast shape.

    Raises
    ------
    ValueError
        If shapes do not broadcast.
    """
    plan, task = inputs.plan, inputs.task
    training = structure.layer.computation == "training"
    kinds = kinds_of_stage(inputs)
    micro_batches = micro_batches_per_replica(inputs)
    group = replica_group(inputs)
    tied = structure.layer.tied
    units = unit_exchanges(table, inputs, group, tied=tied)
    stages = times_of(kinds, structure, inputs, table, units)
    slowest = stages.slowest_s()
    with at("time.pipeline_s"):
        if structure.layer.computation == "decode":
            pipeline = decoding_time(stages, micro_batches)
        else:
            pipeline = scheduled_time(stages, micro_batches, plan)
    traffic = stage_traffic(table, stages, units[0], inputs, training=training)
    messages = _messages(inputs, micro_batches, 2.0 if training else 1.0, traffic)
    p2p_s = messages.exposed_s
    closing = (
        _closing(inputs, table, kinds, stages, group, messages.wires, tied=tied)
        if training
        else _Closing(reduce_s=ZERO, gather_s=ZERO, optimizer=None, optimizer_s=ZERO, end=None)
    )
    copied = StepCopies.nothing()
    if training and offloads(inputs):
        copied = copies_of_step(inputs, table, kinds, stages, micro_batches, closing.optimizer_s, tied=tied)
    offload_s, update_copies_s = copied.passes_s, copied.update_s
    with at("step_time_s"):
        total = step_seconds(
            pipeline_s=pipeline.seconds,
            p2p_s=p2p_s,
            gradients_s=closing.reduce_s,
            optimizer_s=closing.optimizer_s,
            weights_s=closing.gather_s,
            copies_s=update_copies_s,
        )
    tensor_s = micro_batches * stages.at_slowest(stages.tensor_s)
    in_layer_s = micro_batches * stages.at_slowest(stages.data_s)
    layers_s, first = stages.at_slowest(stages.n_layers), stages.at_slowest(kinds.by_stage("embedding"))
    context_s = expert_s = ZERO
    if np.any(table.layer_context_s):
        context_s = micro_batches * (layers_s * table.layer_context_s + first * table.embedding_context_s)
    if np.any(table.layer_expert_s):
        expert_s = micro_batches * layers_s * table.layer_expert_s
    tokens = task.batch * task.query_length
    mfu, hfu = _utilisation(structure, inputs, table, tokens, total)
    doubt = _doubt(inputs, table, kinds, stages, micro_batches, closing, p2p_s)
    with at("tokens_per_s"):
        rate = token_rate(tokens=tokens, seconds=total)
    return Step(
        step_time_s=total,
        compute_s=micro_batches * slowest - tensor_s - in_layer_s - context_s - expert_s - offload_s,
        tensor_parallel_s=tensor_s,
        context_parallel_s=context_s,
        expert_parallel_s=expert_s,
        offload_s=offload_s + update_copies_s,
        data_parallel_s=in_layer_s + closing.reduce_s + closing.gather_s,
        pipeline_p2p_s=p2p_s,
        bubble_s=pipeline.bubble_s,
        optimizer_s=closing.optimizer_s,
        tokens_per_s=rate,
        mfu=mfu,
        hfu=hfu,
        micro_batches=micro_batches,
        memory=memory(inputs, table, kinds, micro_batches, tied=tied, training=training),
        energy=step_energy(
            table,
            inputs,
            seconds=total,
            units=units,
            optimizer=closing.optimizer,
            orthogonal=closing.orthogonal,
            end=closing.end,
            messages_j=messages.energy_j,
            copies_j=copied.energy_j,
        ),
        copies=copied,
        stages=stages,
        kinds=kinds,
        optimizer=closing.optimizer,
        end=closing.end,
        orthogonal=closing.orthogonal,
        end_reduce_s=closing.reduce_s,
        end_gather_s=closing.gather_s,
        doubt=stretched(doubt, total - pipeline.bubble_s, total),
    )
