"""What a user asks: model, task, system and plan, with types and bounds. Combinations are checked in legality."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from simulator.scenarios.offload import offload_text, offload_tiers
from workloads.rematerialisation import KEPT_WORDS, MODULES

MAX_COUNT = 10**9
AXES = ("tensor", "context", "expert", "data", "pipeline")
ContextKind = Literal["ring", "all_gather", "ulysses"]
ExpertDispatch = Literal["per_expert", "per_node"]
TensorSplit = Literal["none", "ring", "pipelined", "ring_pipelined"]
Schedule = Literal["1f1b", "gpipe", "zb_h1", "zb_h2", "zb_v", "dualpipe"]
Optimizer = Literal["adam", "adamw", "adam_8bit", "adafactor", "sgd", "sgd_momentum", "muon"]
Algorithm = Literal[
    "auto",
    "ring",
    "tree",
    "halving_doubling",
    "direct",
    "one_shot",
    "two_shot",
    "hierarchical",
    "in_switch",
]


def layers_given(text: str) -> tuple[int, ...]:
    """Layers of each stage or chunk as a plan writes them [1]; ValueError for anything but whole numbers."""
    words = text.replace(",", " ").split()
    wrong = [word for word in words if not (word.isascii() and word.isdigit())]
    if wrong or any(int(word) > MAX_COUNT for word in words):
        raise ValueError(f"{' '.join(wrong) or text}: must be whole numbers, one for each stage")
    return tuple(int(word) for word in words)


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Training(_Keys):
    """One optimizer step of pre-training."""

    kind: Literal["training"] = "training"
    sequence_length: int = Field(ge=1, le=MAX_COUNT, description="tokens per sequence [token]")
    global_batch_size: int = Field(ge=1, le=MAX_COUNT, description="sequences per step over all replicas [1]")
    method: Literal["full"] = Field("full", description="which parameters are trained")


class Prefill(_Keys):
    """The first token of every sequence of a batch."""

    kind: Literal["prefill"] = "prefill"
    batch_size: int = Field(ge=1, le=MAX_COUNT, description="sequences over all replicas [1]")
    prompt_length: int = Field(ge=1, le=MAX_COUNT, description="tokens per prompt [token]")
    logits: Literal["last", "all", "none"] = Field(
        "last", description="positions of a prompt that the output head computes"
    )


class Decode(_Keys):
    """One more token for every sequence of a batch."""

    kind: Literal["decode"] = "decode"
    batch_size: int = Field(ge=1, le=MAX_COUNT, description="sequences over all replicas [1]")
    context_length: int = Field(ge=1, le=MAX_COUNT, description="tokens cached before the step [token]")


class Generation(_Keys):
    """A prompt and all tokens that follow: prefill and ``output_length`` - 1 decode steps."""

    kind: Literal["generation"] = "generation"
    batch_size: int = Field(ge=1, le=MAX_COUNT, description="sequences over all replicas [1]")
    prompt_length: int = Field(ge=1, le=MAX_COUNT, description="tokens per prompt [token]")
    output_length: int = Field(ge=1, le=MAX_COUNT, description="tokens generated per sequence [token]")


Task = Training | Prefill | Decode | Generation
TASKS: Mapping[str, type[_Keys]] = {
    "training": Training,
    "prefill": Prefill,
    "decode": Decode,
    "generation": Generation,
}


def _in_order(value: str, known: Collection[str]) -> str:
    """Words of a text, each once and in the order of the known ones; ValueError names the others."""
    words = value.replace(",", " ").split()
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(f"{' '.join(unknown)}: must be of {', '.join(known)}")
    return " ".join(word for word in known if word in words)


class Plan(_Keys):
    """How the work is spread and in which types; every key has a default."""

    tensor_parallel: int = Field(1, ge=1, le=MAX_COUNT, description="ranks that split every layer [1]")
    pipeline_parallel: int = Field(1, ge=1, le=MAX_COUNT, description="stages of consecutive layers [1]")
    virtual_pipeline: int = Field(
        1, ge=1, le=MAX_COUNT, description="model chunks per stage, interleaved [1]"
    )
    data_parallel: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="replicas; absent: devices / (tensor x pipeline x context) [1]"
    )
    context_parallel: int = Field(1, ge=1, le=MAX_COUNT, description="ranks that split the sequence [1]")
    context_parallel_kind: ContextKind = Field(
        "ring",
        description="keys and values pass in a ring beside attention, are gathered, or heads are split instead",
    )
    context_zigzag: bool = Field(
        True,
        description="each context rank has a chunk of the sequence's first half and its mirror image, or one part: "
        "under a causal mask the last rank then has most to attend to",
    )
    expert_parallel: int = Field(
        1,
        ge=1,
        le=MAX_COUNT,
        description="ranks that split the experts; data, context and tensor ranks serve [1]",
    )
    expert_tensor_parallel: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="ranks that split each expert; absent: those of tensor_parallel [1]",
    )
    expert_imbalance: float = Field(
        1.0, ge=1, le=MAX_COUNT, description="rows of the fullest expert rank over the mean [1]"
    )
    expert_capacity: float | None = Field(
        None,
        gt=0,
        le=MAX_COUNT,
        description="most rows of an expert over the mean, those beyond are dropped; absent: none are (dropless) [1]",
    )
    expert_padding: bool = Field(False, description="experts with fewer rows than their capacity are padded")
    expert_dispatch: ExpertDispatch = Field(
        "per_expert",
        description="a token is sent once for each of its experts (a library's all-to-all), or once to each node that "
        "has any of them and from there on to their ranks",
    )
    expert_node_limit: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="nodes that the experts of a token may be on, of expert_dispatch per_node; absent: any [1]",
    )
    sequence_parallel: bool = Field(False, description="norms and residuals split over the tensor ranks")
    zero_stage: int = Field(
        0, ge=0, le=3, description="0 none, 1 optimizer, 2 gradients, 3 weights sharded [1]"
    )
    zero_group: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="ranks that share one sharded copy; absent: all that hold the same parameters [1]",
    )
    reshard_after_forward: bool = Field(
        True,
        description="weights of zero_stage 3 are given up after the forward pass and gathered again for the backward "
        "pass, or kept in between",
    )
    prefetch_layers: int = Field(
        1,
        ge=0,
        le=MAX_COUNT,
        description="layers whose weights zero_stage 3 gathers ahead of the one that computes [1]",
    )
    gradient_bucket: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="parameters whose gradients (and new weights) are exchanged at once at the end of a step; absent: "
        "those of a layer, as one message where nothing waits for it [1]",
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="sequences per pass of one replica; absent: 1 in training, all of them in inference [1]",
    )
    recompute: Literal["none", "selective", "full", "needed", "modules"] = Field(
        "none",
        description="activations computed again in the backward pass: none, the attention core, whole layers, what is "
        "needed of them and not kept by recompute_keeps, or recompute_modules",
    )
    recompute_keeps: str = Field(
        "",
        description=f"results that `recompute: needed` keeps beside a layer's input, of {', '.join(KEPT_WORDS)}",
    )
    recompute_modules: str = Field(
        "",
        description=f"parts of a layer that `recompute: modules` runs again, of {', '.join(MODULES)}",
    )
    recompute_layers: int | None = Field(
        None,
        ge=0,
        le=MAX_COUNT,
        description="layers of each stage that recompute, the first of them or every n-th; absent: all [1]",
    )
    uneven_stages: bool = Field(
        False, description="layers may not divide by the stages; middle stages take more"
    )
    first_stage_layers: int | None = Field(
        None,
        ge=0,
        le=MAX_COUNT,
        description="layers of the first stage; absent: as many as the others; interleaved, its first chunk may have "
        "one less than its others (Megatron's account_for_embedding_in_pipeline_split) [1]",
    )
    last_stage_layers: int | None = Field(
        None,
        ge=0,
        le=MAX_COUNT,
        description="layers of the last stage; absent: as many as the others; interleaved, its last chunk may have one "
        "less than its others (Megatron's account_for_loss_in_pipeline_split) [1]",
    )
    stage_layers: str = Field(
        "",
        description="layers of every stage, front to back (`11 13 13 11`), or of every chunk of the model, in its "
        "order, where stages have several; they add up to the model's",
    )
    schedule: Schedule = Field(
        "1f1b",
        description="order of the passes in a pipeline: 1F1B (interleaved by virtual_pipeline), GPipe, zero-bubble "
        "schedules, DualPipe",
    )
    attention_kernel: Literal["flash", "unfused"] = Field("flash", description="fused attention or its parts")
    kernel_fusion: Literal["fused", "eager"] = Field(
        "fused", description="neighbouring pointwise steps share a kernel, or each is its own (eager PyTorch)"
    )
    overlap_grad_reduce: bool = Field(True, description="gradient exchange beside the backward pass")
    overlap_param_gather: bool = Field(True, description="parameter gathering beside compute")
    overlap_tensor_parallel: bool = Field(
        False, description="tensor-parallel exchanges beside the kernels that do not wait for them"
    )
    tensor_parallel_split: TensorSplit = Field(
        "none",
        description="products that overlap_tensor_parallel cuts with the exchange in front of them or behind: none, "
        "into a part for each rank that pass in a ring, into tensor_parallel_chunks pipelined parts, "
        "or those behind all-gathers in a ring and those in front of reduce-scatters pipelined",
    )
    tensor_parallel_chunks: int = Field(
        4, ge=1, le=MAX_COUNT, description="parts of a product under tensor_parallel_split pipelined [1]"
    )
    overlap_expert_parallel: bool = Field(
        False, description="exchanges of experts' rows beside the compute of another micro-batch"
    )
    overlap_shared_experts: bool = Field(
        False, description="exchanges of experts' rows beside the shared experts of the same micro-batch"
    )
    overlap_pipeline_p2p: bool = Field(False, description="stage-to-stage messages beside compute")
    overlap_offload: bool = Field(True, description="copies to and from host or drives beside compute")
    engine: Literal["plain", "deepspeed"] = Field(
        "plain",
        description="who runs pipeline and step: DeepSpeed keeps outputs of stages and flat copies of gradients",
    )
    loss: Literal["in_place", "plain", "compiled", "chunked"] = Field(
        "in_place",
        description="copies of the logits: one in 32 bits that the gradient overwrites, one for each step of the loss "
        "(plain PyTorch), none in 32 bits (one compiled kernel), or none whole (some tokens at a time)",
    )
    fragmentation: float = Field(
        0.0, ge=0, le=1, description="memory that the allocator holds beyond what is in use, over that [1]"
    )
    free_gradients: bool = Field(
        False,
        description="gradients are given back after each step (zero_grad of PyTorch): with one micro-batch they "
        "grow while activations shrink",
    )
    placement: str = Field(
        " ".join(AXES), description="axes from the inside out: neighbours on the first share a node first"
    )
    collective_algorithm: Algorithm = Field(
        "auto", description="the fastest that the software offers, or one wherever it can do the exchange"
    )
    optimizer: Optimizer = Field(
        "adam", description="update of the parameters: its states, their bytes and its passes"
    )
    offload: str = Field(
        "none",
        description="weights, gradients, optimizer or activations kept on the host (optimizer) or on drives "
        "(optimizer:nvme); a mapping of owner to tier does too",
    )
    optimizer_step: Literal["device", "host"] = Field(
        "device",
        description="who updates the parameters: the accelerators, or the host's processors, next to offloaded states",
    )
    precision: str | dict[str, str] = Field(
        "bf16", description="a recipe, or types by tensor and operator class"
    )
    fallback: Literal["forbid", "allow"] = Field(
        "forbid", description="a missing compute type may be replaced"
    )
    compression: list[dict[str, Any]] = Field(default_factory=list, description="named transforms, in order")

    @field_validator("offload", mode="before")
    @classmethod
    def _known_owners_and_tiers(cls, value: Any) -> str:
        """Owners and tiers as words, each owner once."""
        return offload_text(offload_tiers(value))

    @field_validator("recompute_keeps")
    @classmethod
    def _known_results(cls, value: str) -> str:
        """Words of the table, each once, in the table's order, separated by spaces or commas."""
        return _in_order(value, KEPT_WORDS)

    @field_validator("recompute_modules")
    @classmethod
    def _known_modules(cls, value: str) -> str:
        """As words of kept results."""
        return _in_order(value, MODULES)

    @field_validator("stage_layers", mode="before")
    @classmethod
    def _whole_layers(cls, value: Any) -> str:
        """Whole numbers, separated by spaces or commas; in YAML a list of them is an axis, so they are one text."""
        if not isinstance(value, str):
            raise ValueError("must be text, the layers of all stages in quotes, such as '11 13 13 11'")
        return " ".join(str(n) for n in layers_given(value))

    @field_validator("placement")
    @classmethod
    def _all_axes_once(cls, value: str) -> str:
        """Each axis once, in any order, separated by spaces or commas."""
        names = value.replace(",", " ").split()
        if sorted(names) != sorted(AXES):
            raise ValueError(f"must name each of {', '.join(AXES)} once")
        return " ".join(names)


class Scenario(_Keys):
    """Model, task, system and plan of one estimate; unknown keys are refused.

    Attributes
    ----------
    model, system : str or mapping
        A catalog name, a path, or the keys themselves.
    task : Training, Prefill, Decode or Generation
        By its ``kind``.
    devices : int
        Accelerators in use [1].
    plan : Plan
        Degrees, switches, types.
    fidelity : str
        "calibrated", "datasheet" (no fitted coefficients) or "bound" (no latencies either).
    """

    model: str | dict[str, Any] = Field(
        description="a catalog name, the path of a model YAML or Hugging Face config.json, or the keys themselves"
    )
    task: Task = Field(discriminator="kind", description="what one step does, by its kind")
    system: str | dict[str, Any] = Field(
        description="a catalog name, the path of a system YAML, or the keys themselves"
    )
    devices: int = Field(
        ge=1, le=MAX_COUNT, description="accelerators in use: part of one node, or whole nodes [1]"
    )
    plan: Plan = Field(default=Plan(), description="how the work is spread; every key has a default")
    fidelity: Literal["bound", "datasheet", "calibrated"] = Field(
        "calibrated", description="fitted coefficients; none; or none and no latencies"
    )
