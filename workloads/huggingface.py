"""Hugging Face config.json -> `ModelSpec`, without the transformers package.

Only keys that change the arithmetic are read. A key that changes it in a way that the spec cannot hold
(experts, latent attention, state spaces, ...) is refused, whatever family the file names; the scaling of
rotary frequencies, the clipping of queries and token numbers change no cost and are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware_specs.errors import Problem, SpecError, near_names, shorten
from workloads.config_reader import ConfigReader
from workloads.huggingface_families import FAMILIES, Family
from workloads.model_rules import consistency_problems
from workloads.model_spec import ModelSpec

__all__ = ["is_huggingface", "known_families", "spec_from_config"]

# Part of a key -> what such a model is. The values None, false, 0, "" and empty lists stand for "not used".
_EXPERTS = "a mixture of experts"
# Keys of experts that no family here has: experts that serve all tokens, and layers without any.
_SHARED_EXPERTS = ("n_shared_experts", "num_shared_experts", "shared_expert_intermediate_size")
_FOREIGN = {
    "expert": _EXPERTS,
    "moe": _EXPERTS,
    "kv_lora_rank": "multi-head latent attention",
    "q_lora_rank": "multi-head latent attention",
    "mamba": "a state-space model",
    "ssm": "a state-space model",
    "state_size": "a state-space model",
    "linear_attn": "linear attention",
    "linear_num": "linear attention",
    "index_topk": "sparse attention",
    "sparse_attention": "sparse attention",
    "attention_chunk_size": "chunked attention",
    "logit_softcapping": "soft-capped scores",
    "parallel_attn": "attention and MLP in parallel",
    "use_parallel_residual": "attention and MLP in parallel",
    "is_encoder_decoder": "an encoder and a decoder",
    "cross_attention": "an encoder and a decoder",
    "vision_config": "a model of images and text",
    "audio_config": "a model of sound and text",
    "block_configs": "layers that differ from each other",
    "num_nextn_predict_layers": "multi-token prediction",
    "quantization_config": "a quantised checkpoint",
}


def known_families() -> list[str]:
    """Values of ``model_type`` that are understood."""
    return sorted(FAMILIES)


def is_huggingface(mapping: Mapping[str, Any]) -> bool:
    """Whether a mapping is a Hugging Face configuration rather than one in our own keys."""
    return "model_type" in mapping or "architectures" in mapping


def spec_from_config(config: Mapping[str, Any], *, name: str = "", prefix: str = "model.") -> ModelSpec:
    """Translate a Hugging Face configuration.

    Parameters
    ----------
    config : mapping
        The content of a config.json.
    name : str
        Name of the model where the file gives none (``_name_or_path``); empty means its ``model_type``.
    prefix : str
        Text before each key in messages.

    Returns
    -------
    ModelSpec
        The model; ``published_parameters`` is None.

    Raises
    ------
    SpecError
        If the architecture is unknown (the message says what is known and what the file looks like), if a
        key asks for something that the spec cannot hold, or if values are missing, of a wrong type, out of
        range or contradict each other; all mistakes at once.

    Notes
    -----
    Key meanings and defaults follow the configuration classes of transformers 4
    (https://huggingface.co/docs/transformers). ``dropout`` is the largest of the file's probabilities.
    """
    given = config.get("_name_or_path")
    config, prefix = _text_part(config, prefix)
    reader = ConfigReader(config, prefix)
    family = _family(config, prefix)
    _refuse_foreign(reader, FAMILIES[family])
    FAMILIES[family].read(reader)
    _check_class(reader, family)
    reader.problems += consistency_problems(reader.values, reader.wrong, reader.path_of)
    if reader.problems:
        raise SpecError(reader.problems)
    title = given.rstrip("/").rpartition("/")[2] if isinstance(given, str) else ""
    fields = {
        "name": shorten(title or name or family),
        "family": family,
        "source": f"Hugging Face config.json of model_type {family}, given by the user",
        **reader.values,
    }
    return ModelSpec.model_validate(fields, context={"prefix": prefix})


def _family(config: Mapping[str, Any], prefix: str) -> str:
    """The family that ``model_type`` names, or else the class in ``architectures``."""
    given = config.get("model_type")
    if isinstance(given, str) and given in FAMILIES:
        return given
    if given is None:
        classes = {family.model_class.lower(): name for name, family in FAMILIES.items()}
        for model_class in _classes(config):
            if model_class.lower() in classes:
                return classes[model_class.lower()]
    key = "architectures" if given is None and "architectures" in config else "model_type"
    value = config.get(key)
    if value is None:
        rule = "is missing, so this is no Hugging Face config.json"
    else:
        rule = "is an architecture that is not known here"
    looks = _looks_like(config)
    if looks:
        rule += f" (it looks like {looks})"
    near = near_names(value, FAMILIES, n=1) if isinstance(value, str) else []
    fix = f"known: {', '.join(known_families())}" + (f"; near: {near[0]}" if near else "")
    shown = "" if value is None else shorten(value)
    raise SpecError([Problem(path=prefix + key, value=shown, rule=rule, fix=fix)])


def _looks_like(config: Mapping[str, Any]) -> str:
    found: dict[str, str] = {}
    for key in config:
        for part, what in _FOREIGN.items():
            if part in key.lower() and config[key]:
                found.setdefault(what, key)
    return ", ".join(f"{what}, by its key {key}" for what, key in found.items())


def _text_part(config: Mapping[str, Any], prefix: str) -> tuple[Mapping[str, Any], str]:
    """The part of a model of text and images that is about text; the encoder of images is left out."""
    text = config.get("text_config")
    if config.get("model_type") != "llama4" or not isinstance(text, Mapping):
        return config, prefix
    return {"model_type": "llama4_text", **text}, f"{prefix}text_config."


def _refuse_foreign(reader: ConfigReader, family: Family) -> None:
    for key, value in reader.config.items():
        what = next((what for part, what in _FOREIGN.items() if part in key.lower()), None)
        if what is None or not value or key in family.knows:
            continue
        if family.experts and what == _EXPERTS and key not in _SHARED_EXPERTS:
            continue
        if key == "quantization_config":
            fix = "take the file of the unquantised model, and set plan.precision"
        else:
            fix = f"known are decoders of the families {', '.join(known_families())}"
        shown = shorten(value) if not isinstance(value, (dict, list)) else ""
        rule = f"belongs to {what}, which is not known here"
        reader.problems.append(Problem(path=reader.prefix + key, value=shown, rule=rule, fix=fix))


def _check_class(reader: ConfigReader, family: str) -> None:
    """A class with another head (classification, embedding) computes something else."""
    given = reader.config.get("architectures")
    known = FAMILIES[family].model_class
    if given in (None, []):
        return
    if known.lower() not in [model_class.lower() for model_class in _classes(reader.config)]:
        reader.fail("architectures", f"is not known here for {family}", f"known: {known}")


def _classes(config: Mapping[str, Any]) -> list[str]:
    given = config.get("architectures")
    return [item for item in given if isinstance(item, str)] if isinstance(given, list) else []
