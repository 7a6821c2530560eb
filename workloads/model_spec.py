"""The schema of a model: a stack of layers, of a decoder or an encoder, between an embedding and a head.

`ModelSpec` holds shapes and switches only; what they cost is the business of the graph. Each key of a model
YAML file or of an inline mapping is a field of this class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from hardware_specs.errors import Problem, SpecError, near_names, shorten
from workloads.model_rules import MAX_COUNT, consistency_problems, is_count

__all__ = ["ModelSpec"]

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]

_DERIVED = ("head_dim", "kv_heads")  # filled in from other keys, so their absence is never the mistake


class ModelSpec(BaseModel):
    """A transformer, dense or with experts: a decoder or, with ``causal`` false, an encoder.

    Keys that are left out take the defaults below; ``kv_heads`` becomes ``heads``, ``head_dim`` becomes
    ``hidden / heads`` (which must then be whole) and ``activation`` becomes ``silu`` in a gated MLP and
    ``gelu`` in a plain one. With the other defaults a bare set of shapes is a Llama-like model [1]_.

    Parameters
    ----------
    schema_version : int
        Version of this schema, 1.
    name, family : str
        Catalog name, and the architecture it belongs to.
    n_layers : int
        Layers, all equal unless a key below says that every n-th differs. [1]
    hidden : int
        Width of the residual stream. [1]
    heads, kv_heads : int
        Query heads, and key/value heads; equal is multi-head, 1 multi-query, between them grouped-query
        attention. [1]
    head_dim : int
        Width of one head; ``heads * head_dim`` need not be ``hidden``. [1]
    ffn : int
        Inner width of the MLP; a gated MLP has two input matrices of it. [1]
    gated_mlp : bool
        Whether the MLP (or an expert) multiplies an activated gate with a second projection (SwiGLU and its
        like).
    experts : int
        MLPs of each layer that a router chooses from; 0 is one MLP for all tokens. [1]
    topk : int
        Different experts that each token is sent to. [1]
    moe_ffn : int
        Inner width of one expert; ``ffn`` where it is left out. [1]
    shared_experts : int
        Experts of that width, as one wider MLP, that every token passes beside those it is sent to. [1]
    first_dense_layers : int
        Layers in front of those with experts, each with the one MLP of ``ffn``. [1]
    experts_every : int
        Behind them every n-th layer of the model has experts, counted from 1, the others the one MLP of ``ffn``. [1]
    router_bias : bool
        Whether the router adds a bias.
    kv_lora_rank, q_lora_rank : int
        Multi-head latent attention: width of the latent that keys and values are unfolded from, 0 for none; and of
        the query's, 0 where the query has no latent. [1]
    rope_head_dim, value_head_dim : int
        Latent attention: the part of ``head_dim`` that carries positions, one key of it for all heads, and the width
        of a value. [1]
    activation : str
        ``silu``, ``gelu``, ``gelu_tanh`` (its tanh form; the same cost in one kernel, eight steps without) or
        ``relu``; ``relu2``, its square, counts as one kernel of the same cost.
    norm : str
        ``rms`` or ``layer``; two in a layer and one after the last.
    norm_position : str
        ``pre``: in front of each branch; ``post``: behind each residual addition, and none after the last layer.
    causal : bool
        Whether a token sees only those before it; an encoder's tokens all see each other.
    positions : str
        ``rotary``, ``alibi``, ``learned`` (a table of ``position_rows``) or ``none``.
    max_positions : int
        Longest sequence the model is meant for. [token]
    position_offset : int
        Rows of the learned table that come before position 0 (OPT has 2). [1]
    vocab : int
        Rows of the embedding, padding rows included. [1]
    token_types : int
        Rows of a second table that is added to the embedding (BERT's segments); 0 is none. [1]
    tied_embeddings : bool
        Whether the head reuses the embedding matrix; the head's matmul takes place either way.
    qkv_bias, attention_out_bias, mlp_bias, norm_bias, head_bias : bool
        Which of the projections and norms add a bias; experts have that of the MLP.
    separate_qkv : bool
        Whether query, key and value are three products instead of one.
    head_transform : bool
        A square projection, activation and norm in front of the head (BERT's masked tokens).
    qk_norm : bool
        RMS norm on each query and key head, one weight vector of ``head_dim`` for each of the two.
    embedding_norm : bool
        A norm right after the embedding.
    sliding_window : int or None
        Keys that a query sees; None is all of them. [token]
    attention_chunk : int or None
        Tokens of a chunk: a query sees the keys before it in its own chunk; None is one chunk. [token]
    global_attention_every : int or None
        Every n-th layer, counted from 1, sees all keys whatever the window or the chunk; None is no layer. [1]
    global_rotary : bool
        Whether those layers turn queries and keys by their positions, as the others do.
    attention_sinks : bool
        Whether each head has a learned score that takes part in the softmax and has no value.
    dropout : float
        Probability in training; above zero, masks are stored after attention scores and both branches.
    source : str
        Citation of the shapes.
    published_parameters : int or None
        The exact count that the makers state; None if they state a rounded one.
    note : str
        What is left out or was chosen.

    Raises
    ------
    SpecError
        On any unknown key, wrong type, value outside its range or shapes that contradict each other; all
        mistakes at once.

    References
    ----------
    .. [1] H. Touvron et al., arXiv:2302.13971, 2023, section 2.2.

    Examples
    --------
    >>> ModelSpec(n_layers=2, hidden=64, heads=4, ffn=256, vocab=1000, max_positions=128).head_dim
    16
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: Literal[1] = 1
    name: str = Field("custom", min_length=1)
    family: str = Field("custom", min_length=1)
    n_layers: Count
    hidden: Count
    heads: Count
    kv_heads: Count
    head_dim: Count
    ffn: Count
    gated_mlp: bool = True
    experts: int = Field(0, ge=0, le=MAX_COUNT)
    topk: int = Field(0, ge=0, le=MAX_COUNT)
    moe_ffn: int = Field(0, ge=0, le=MAX_COUNT)
    shared_experts: int = Field(0, ge=0, le=MAX_COUNT)
    first_dense_layers: int = Field(0, ge=0, le=MAX_COUNT)
    experts_every: Count = 1
    router_bias: bool = False
    kv_lora_rank: int = Field(0, ge=0, le=MAX_COUNT)
    q_lora_rank: int = Field(0, ge=0, le=MAX_COUNT)
    rope_head_dim: int = Field(0, ge=0, le=MAX_COUNT)
    value_head_dim: int = Field(0, ge=0, le=MAX_COUNT)
    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
    norm: Literal["rms", "layer"] = "rms"
    norm_position: Literal["pre", "post"] = "pre"
    causal: bool = True
    positions: Literal["rotary", "alibi", "learned", "none"] = "rotary"
    max_positions: Count
    position_offset: int = Field(0, ge=0, le=MAX_COUNT)
    vocab: Count
    token_types: int = Field(0, ge=0, le=MAX_COUNT)
    tied_embeddings: bool = False
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    head_bias: bool = False
    separate_qkv: bool = False
    head_transform: bool = False
    qk_norm: bool = False
    embedding_norm: bool = False
    sliding_window: Count | None = None
    attention_chunk: Count | None = None
    global_attention_every: Annotated[int, Field(ge=2, le=MAX_COUNT)] | None = None
    global_rotary: bool = True
    attention_sinks: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    source: str = Field("given by the user", min_length=8)
    published_parameters: int | None = Field(None, ge=1)
    note: str = ""

    @property
    def position_rows(self) -> int:
        """Rows of the learned position table; 0 where positions have no weights. [1]"""
        return self.max_positions + self.position_offset if self.positions == "learned" else 0

    @property
    def shared_ffn(self) -> int:
        """Inner width of the MLP that all tokens pass beside the experts; 0 is none. [1]"""
        return self.shared_experts * self.moe_ffn

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Fill in what follows from other keys, and report every mistake in one `SpecError`."""
        if not isinstance(data, Mapping):
            return handler(data)
        values = _with_derived(data)
        prefix = (info.context or {}).get("prefix", "model.")
        problems: list[Problem] = []
        wrong: set[str] = set()
        spec: Self | None = None
        try:
            spec = handler(values)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                if detail["type"] != "missing":
                    wrong.add(str(detail["loc"][0]) if detail["loc"] else "")
                problems += _field_problem(detail, prefix, cls.model_fields)
        problems += consistency_problems(values, wrong, lambda key: prefix + key)
        if spec is None or problems:
            raise SpecError(problems)
        return spec


def _with_derived(data: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(data)
    hidden, heads = values.get("hidden"), values.get("heads")
    for key in (*_DERIVED, "activation"):
        if values.get(key) is None:
            values.pop(key, None)
    if is_count(heads):
        values.setdefault("kv_heads", heads)
        if is_count(hidden) and hidden % heads == 0:
            values.setdefault("head_dim", hidden // heads)
    if is_count(values.get("experts")) and not values.get("moe_ffn") and is_count(values.get("ffn")):
        values["moe_ffn"] = values["ffn"]
    values.setdefault("activation", "gelu" if values.get("gated_mlp") is False else "silu")
    values.setdefault("positions", "rotary")
    return values


def _field_problem(detail: Any, prefix: str, known: Iterable[str]) -> list[Problem]:
    kind, loc, given = detail["type"], detail["loc"], detail["input"]
    key = ".".join(str(part) for part in loc)
    if kind == "missing":
        return [] if key in _DERIVED else [Problem(path=prefix + key, value="", rule="is missing")]
    if kind == "extra_forbidden":
        near = near_names(key, known)
        fix = f"near: {', '.join(near)}" if near else f"known: {', '.join(known)}"
        return [Problem(path=prefix + key, value=shorten(given), rule="is not a key of a model", fix=fix)]
    return [Problem(path=prefix + key, value=shorten(given), rule=_rule(kind, detail))]


def _rule(kind: str, detail: Any) -> str:
    context = detail.get("ctx", {})
    rules = {
        "int_type": "must be a whole number",
        "bool_type": "must be true or false",
        "string_type": "must be text",
        "float_type": "must be a number",
        "finite_number": "must be finite",
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "less_than_equal": f"must be at most {context.get('le')}",
        "less_than": f"must be below {context.get('lt')}",
        "literal_error": f"must be {context.get('expected')}",
        "string_too_short": f"needs at least {context.get('min_length')} characters",
    }
    return rules.get(kind, str(detail["msg"]))
