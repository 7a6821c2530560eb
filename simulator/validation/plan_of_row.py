"""The plan that a measured row followed: degrees, sharding, recomputation, types and overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.scenarios.precision import CLASSES, OPERATOR_CLASSES, RECIPES, Precision
from simulator.validation.cases import RowReader
from simulator.validation.known_words import Framework, spelling

__all__ = ["degrees", "precision", "recompute", "sharding", "stage_layers", "switches"]

Notes = Sequence[Mapping[str, Any]]
UNSHARDED = "0123"


def degrees(reader: RowReader) -> dict[str, Any]:
    """Degrees of parallelism as scenario keys [1].

    A stated data-parallel degree is passed on, so that one that contradicts the devices is found by legality. A
    blank context-parallel degree is 1 where the others multiply to the devices. Raises nothing.
    """
    row = reader.row
    tensor, pipeline = reader.need_count("tp"), reader.need_count("pp")
    keys: dict[str, Any] = {"plan.tensor_parallel": tensor, "plan.pipeline_parallel": pipeline}
    keys["plan.virtual_pipeline"] = reader.need_count("vpp") if pipeline > 1 else 1
    if (row.count("ep") or 1) > 1:
        # No column says how experts are split; the recipes of Megatron-Bridge keep them whole.
        keys |= {"plan.expert_parallel": row.count("ep"), "plan.expert_tensor_parallel": 1}
    replicas, context = row.count("dp"), row.count("cp")
    accounted = replicas is not None and tensor * pipeline * replicas == row.count("n_accelerators")
    if context is None and not accounted and tensor and pipeline:
        found = reader.assume("cp", "cp is blank and the other degrees do not multiply to the devices")
        context = int(found) if isinstance(found, (int, float)) else None
    if (context or 1) > 1:
        keys["plan.context_parallel"] = context
    if replicas is not None:
        keys["plan.data_parallel"] = replicas
    return keys


def stage_layers(reader: RowReader, framework: Framework | None, keys: Mapping[str, Any]) -> dict[str, int]:
    """Layers of the first and the last stage as scenario keys [1], where the others do not divide; an assumption.

    Some frameworks count the embedding and the loss as a layer each, so that the first and the last chunk have one
    less. Raises nothing.
    """
    stages, layers = keys["plan.pipeline_parallel"], reader.row.count("n_layers") or 0
    parts = stages * keys["plan.virtual_pipeline"]
    if stages < 2 or framework is None or not framework.ends_are_layers or layers % parts == 0:
        return {}
    if (layers + 2) % parts:
        return {}
    reader.assumed["stages"] = "embedding and loss as layers"
    ends = (layers + 2) // stages - 1
    return {"plan.first_stage_layers": ends, "plan.last_stage_layers": ends}


def _replicas(reader: RowReader, keys: Mapping[str, Any]) -> int:
    stated = reader.row.count("dp")
    inner = (
        keys["plan.tensor_parallel"] * keys["plan.pipeline_parallel"] * keys.get("plan.context_parallel", 1)
    )
    return stated or (int(reader.row.count("n_accelerators") or 0) // inner if inner else 0)


def sharding(reader: RowReader, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Sharding stage and group as scenario keys [1], of a row with the degrees in ``keys``.

    Stage 0 and a noted reason where the row's word maps to none; raises nothing.
    """
    ranks = _replicas(reader, keys) * int(keys.get("plan.context_parallel", 1))
    nothing = {"plan.zero_stage": 0}
    if ranks == 1:
        return nothing
    text = str(reader.need("zero_stage") or "")
    if not text:
        return nothing
    entry: dict[str, Any] | None
    entry = {"stage": int(text)} if text in UNSHARDED else spelling("zero_stage", text)
    if entry is None:
        reader.skip(f"zero_stage {text!r} is not in the table of spellings")
        return nothing
    if "skip" in entry:
        reader.skip(f"zero_stage {text!r}: {entry['skip']}")
        return nothing
    group = entry.get("group")
    sharing = reader.row.count("accelerators_per_node") if group == "node" else group
    found: dict[str, Any] = {"plan.zero_stage": int(entry["stage"])}
    found |= {f"plan.{key}": value for key, value in entry.get("plan", {}).items()}
    return found | ({"plan.zero_group": sharing} if sharing is not None and sharing < ranks else {})


def recompute(reader: RowReader, keys: Mapping[str, Any], notes: Notes) -> dict[str, str | int]:
    """Recomputation as scenario keys; "none" and a noted reason where the row's word maps to none."""
    text = str(reader.need("recompute") or "")
    row = reader.row
    entry = spelling("recompute", text, row.text("source"), row.text("framework")) if text else {}
    if entry is None:
        reader.skip(f"recompute {text!r} is not in the table of spellings")
    elif "skip" in entry:
        reader.skip(f"recompute {text!r}: {entry['skip']}")
    entry = entry or {}
    found: dict[str, str | int] = {"plan.recompute": str(entry.get("plan", "none"))}
    if "every" in entry:
        of_stage = (row.count("n_layers") or 0) // keys["plan.pipeline_parallel"]
        found["plan.recompute_layers"] = of_stage // int(entry["every"])
    if "keeps" in entry:
        ranks = (
            [entry["keeps_of_ranks"]]
            if "keeps_of_ranks" in entry and keys["plan.tensor_parallel"] > 1
            else []
        )
        stored = [note["keeps"] for note in notes if "keeps" in note]
        words = " ".join([entry["keeps"], *ranks, *stored]).split()
        # A policy names tensors of every model; those that this one lacks it cannot keep.
        plain = any(row.number_of(name) for name in ("first_dense_layers", "shared_experts"))
        lacks = {"gate", "up", "mlp_out"} if row.number_of("experts") and not plain else set()
        lacks |= {"gate"} if row.cells.get("gated_mlp") is False else set()
        found["plan.recompute_keeps"] = " ".join(word for word in words if word not in lacks)
    return found


def _types(recipe: Precision, notes: Notes, weights: str | None) -> str | dict[str, str]:
    """A recipe's name, or its types by class where gradients are reduced, or weights gathered, in another type."""
    wanted = recipe.communication
    for note in notes:
        stated = note.get("precision", {}).get("communication", wanted)
        wanted = recipe.activations if stated == "compute" else stated
    if wanted == recipe.communication and weights is None:
        return recipe.name
    types = {key: str(getattr(recipe, key)) for key in (*CLASSES, *OPERATOR_CLASSES)}
    return {**types, "communication": wanted, "weights": weights or recipe.weights}


def precision(reader: RowReader, notes: Notes) -> tuple[str | dict[str, str], str]:
    """Precision of a row.

    Parameters
    ----------
    reader : RowReader
        The row; notes reasons and assumptions.
    notes : sequence of mapping
        What the row's notes say.

    Returns
    -------
    tuple
        The plan's precision, and the type of the matrix products for grouping ("unknown" where blank).

    Raises
    ------
    KeyError
        If the table of spellings names an unknown recipe.
    """
    text = reader.row.text("precision")
    entry = spelling("precision", text) if text else {"blank": "precision is blank", "dtype": "unknown"}
    if entry is not None and "blank" in entry:
        text = str(reader.assume("precision", entry["blank"]) or "")
        if not text:
            return "bf16", str(entry["dtype"])
        entry = spelling("precision", text)
    if entry is None:
        reader.skip(f"precision {text!r} is not in the table of spellings")
        return "bf16", text
    if "skip" in entry:
        reader.skip(f"precision {text!r}: {entry['skip']}")
        return "bf16", str(entry["dtype"])
    shards = spelling("zero_stage", reader.row.text("zero_stage")) or {}
    return _types(RECIPES[entry["recipe"]], notes, shards.get("weights")), str(entry["dtype"])


def switches(reader: RowReader, framework: Framework | None, notes: Notes, tensor: int) -> dict[str, Any]:
    """Attention kernel, sequence parallelism and overlap.

    Parameters
    ----------
    reader : RowReader
        The row; notes reasons and assumptions.
    framework : Framework or None
        Habits that hold where the row is silent.
    notes : sequence of mapping
        What the row's notes say; these come last.
    tensor : int
        Tensor-parallel degree [1]; sequence parallelism is needed only above 1.

    Returns
    -------
    dict
        Keys of the plan, dotted. Raises nothing: an unknown framework is a reason to skip.
    """
    row = reader.row
    if framework is None:
        reader.skip(f"framework {row.text('framework')!r} is not in the table of frameworks")
        return {}
    flash = row.cells.get("flash_attention")
    if flash is None:
        flash = framework.attention == "flash" if framework.attention else reader.need("flash_attention")
    sequence = row.cells.get("sequence_parallel")
    if sequence is None and tensor > 1:
        habit = framework.sequence_parallel
        sequence = reader.need("sequence_parallel") if habit is None else habit
    keys: dict[str, Any] = {
        "plan.attention_kernel": "flash" if flash else "unfused",
        "plan.sequence_parallel": bool(sequence),
    }
    for habits in (framework.plan, *(note.get("plan", {}) for note in notes)):
        keys.update({f"plan.{key}": value for key, value in habits.items()})
    return keys
