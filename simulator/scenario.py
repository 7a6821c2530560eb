"""What a user asks: model, task, system and plan. Types and names are checked here, combinations in legality."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardware_specs.errors import LlmsimError, Problem, ScenarioError, near_names, shorten
from hardware_specs.strict_yaml import load_yaml

MAX_COUNT = 10**9


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


class Plan(_Keys):
    """How the work is spread and in which types; every key has a default."""

    tensor_parallel: int = Field(1, ge=1, le=MAX_COUNT, description="ranks that split every layer [1]")
    pipeline_parallel: int = Field(1, ge=1, le=MAX_COUNT, description="stages of consecutive layers [1]")
    virtual_pipeline: int = Field(
        1, ge=1, le=MAX_COUNT, description="model chunks per stage, interleaved [1]"
    )
    data_parallel: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="replicas; absent: devices / (tensor x pipeline) [1]"
    )
    context_parallel: int = Field(1, ge=1, le=MAX_COUNT, description="ranks that split the sequence [1]")
    expert_parallel: int = Field(1, ge=1, le=MAX_COUNT, description="ranks that split the experts [1]")
    sequence_parallel: bool = Field(False, description="norms and residuals split over the tensor ranks")
    zero_stage: int = Field(
        0, ge=0, le=3, description="0 none, 1 optimizer, 2 gradients, 3 weights sharded [1]"
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="sequences per pass of one replica; absent: 1 in training, all of them in inference [1]",
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none", description="activations computed again in the backward pass"
    )
    uneven_stages: bool = Field(
        False, description="layers may not divide by the stages; middle stages take more"
    )
    schedule: Literal["1f1b"] = Field(
        "1f1b", description="pipeline schedule (interleaved by virtual_pipeline)"
    )
    attention_kernel: Literal["flash", "unfused"] = Field("flash", description="fused attention or its parts")
    overlap_grad_reduce: bool = Field(True, description="gradient exchange beside the backward pass")
    overlap_param_gather: bool = Field(True, description="parameter gathering beside compute")
    overlap_tensor_parallel: bool = Field(
        False, description="tensor-parallel exchanges beside the kernels that do not wait for them"
    )
    overlap_pipeline_p2p: bool = Field(False, description="stage-to-stage messages beside compute")
    offload: Literal["none"] = Field("none", description="tensors kept on the host")
    precision: str | dict[str, str] = Field(
        "bf16", description="a recipe, or types by tensor and operator class"
    )
    fallback: Literal["forbid", "allow"] = Field(
        "forbid", description="a missing compute type may be replaced"
    )
    compression: list[dict[str, Any]] = Field(default_factory=list, description="named transforms, in order")


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

    model: str | dict[str, Any]
    task: Task = Field(discriminator="kind")
    system: str | dict[str, Any]
    devices: int = Field(ge=1, le=MAX_COUNT)
    plan: Plan = Field(default=Plan())
    fidelity: Literal["bound", "datasheet", "calibrated"] = "calibrated"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    if len(location) == 1:
        return list(Scenario.model_fields)
    if location[0] == "plan":
        return list(Plan.model_fields)
    if location[0] == "task" and len(location) > 1 and location[1] in TASKS:
        return list(TASKS[str(location[1])].model_fields)
    return []


_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "union_tag_not_found": "needs a kind: training, prefill, decode or generation",
    "missing": "is missing",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


def _problem(error: Mapping[str, Any]) -> Problem:
    location = tuple(error["loc"])
    shown = tuple(p for i, p in enumerate(location) if not (i == 1 and location[0] == "task" and p in TASKS))
    path = ".".join(str(p) for p in shown if p not in ("str", "dict[str,any]", "dict[str,str]"))
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        near = near_names(str(location[-1]), _known_keys(location))
        fix = (
            f"did you mean {', '.join(near)}?" if near else f"known keys: {', '.join(_known_keys(location))}"
        )
        return Problem(path=path, value=shorten(value), rule="is not a key here", fix=fix)
    if kind == "missing":
        return Problem(path=path, value="", rule="is missing", fix="add it")
    if kind == "union_tag_invalid":
        return Problem(
            path="task.kind",
            value=shorten(error["ctx"]["tag"]),
            rule="is not a known task",
            fix=f"use {', '.join(TASKS)}",
        )
    rule = _RULES.get(kind, str(error["msg"]).replace("Input should be", "must be"))
    return Problem(path=path, value=shorten(value), rule=rule)


def problems_of(error: ValidationError) -> list[Problem]:
    """Mistakes that pydantic found, in the words of this project; a union's branches give one line."""
    seen: dict[str, Problem] = {}
    for item in error.errors(include_url=False):
        problem = _problem(item)
        seen.setdefault(problem.path, problem)
    return list(seen.values())


def merged(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with dotted keys replaced, e.g. ``{"plan.tensor_parallel": 4}``.

    Raises ScenarioError if a parent is no mapping.
    """
    out: dict[str, Any] = dict(base)
    for dotted, value in overrides.items():
        here, keys = out, dotted.split(".")
        for key in keys[:-1]:
            inner = here.get(key, {})
            if isinstance(inner, str) and key in ("model", "system"):
                # A catalog name with some keys changed.
                inner = {"base": inner}
            if not isinstance(inner, Mapping):
                raise ScenarioError(
                    [Problem(path=dotted, value=shorten(value), rule=f"{key} is not a mapping here")]
                )
            here[key] = dict(inner)
            here = here[key]
        here[keys[-1]] = value
    return out


def scenario_from(source: Scenario | Mapping[str, Any] | str | Path) -> Scenario:
    """Read a scenario.

    Parameters
    ----------
    source : Scenario, mapping, str or Path
        A path names a YAML file; relative paths in it are relative to its folder.

    Returns
    -------
    Scenario
        Types and names checked; nothing is looked up yet.

    Raises
    ------
    ScenarioError, SpecError
        With every mistake that was found; a file that cannot be read is a SpecError.
    """
    if isinstance(source, Scenario):
        return source
    data = mapping_from(source)
    # Dotted keys at file level are overrides.
    plain = {k: v for k, v in data.items() if "." not in str(k)}
    data = merged(plain, {str(k): v for k, v in data.items() if "." in str(k)})
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        raise ScenarioError(problems_of(error)) from None
    except LlmsimError:
        raise


def mapping_from(source: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A mapping as it is, or the one in a YAML file, its relative paths anchored; SpecError if unreadable."""
    if isinstance(source, Mapping):
        return dict(source)
    return anchored(load_yaml(Path(source)), Path(source).parent)


def anchored(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``data`` with relative paths of model and system made relative to ``folder`` instead."""
    out = dict(data)
    for key in ("model", "system"):
        value = out.get(key)
        if isinstance(value, str) and (value.endswith((".yaml", ".yml", ".json")) or "/" in value):
            path = Path(value)
            out[key] = str(path if path.is_absolute() else folder / path)
    return out
