"""Rows of single operators of a layer: their sum over a layer is compared, since medians are whole microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.kernels.size_classes import token_class
from simulator.measured_tables.measured_table import Cell, Row
from simulator.validation.cases import Case, Quantity, RowReader
from simulator.validation.known_words import layer_calibration, system_of

__all__ = ["LAYER_OPERATORS", "layer_cases"]

MICRO = 1e-6
# Operators of the table and those of the engine's layer; each is timed once, whatever a layer has of it.
LAYER_OPERATORS: Mapping[str, str] = {
    "input_layernorm": "attention_norm",
    "attn_pre_proj": "qkv",
    "attn_rope": "rotary",
    "attn_post_proj": "attention_projection",
    "add": "attention_residual",
    "post_attention_layernorm": "mlp_norm",
    "mlp_up_proj": "mlp_up",
    "mlp_act": "mlp_activation",
    "mlp_down_proj": "mlp_down",
}
EMBEDDING = "emb"
SHAPE = ("hidden", "ffn", "heads", "kv_heads", "vocab")


def _measured_s(rows: Sequence[Row], operators: Sequence[str]) -> tuple[float | None, str]:
    """Sum over operators of the mean of their rows [s], or None and what is missing."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.text("op"), []).append(float(row.number_of("median_us") or 0.0) * MICRO)
    missing = [name for name in operators if name not in found]
    if missing:
        return None, f"rows of {', '.join(missing)} are missing"
    return sum(sum(found[name]) / len(found[name]) for name in operators), ""


def _quantities(rows: Sequence[Row]) -> tuple[Quantity, ...]:
    parts = (
        ("layer_time", tuple(LAYER_OPERATORS), [f"layer.{name}_s" for name in LAYER_OPERATORS.values()]),
        ("embedding_time", (EMBEDDING,), ["embedding.embedding_s"]),
    )
    out = []
    for name, operators, columns in parts:
        measured, absent = _measured_s(rows, operators)
        out.append(
            Quantity(
                name=name,
                unit="s",
                measured=measured,
                column=columns[0],
                plus=tuple(columns[1:]),
                absent=absent,
            )
        )
    return tuple(out)


def _model(row: Row) -> dict[str, Any]:
    """A model of one such layer."""
    return {
        "name": row.text("model"),
        "n_layers": 1,
        "max_positions": row.count("tokens"),
        "gated_mlp": row.cells.get("gated") is not False,
        **{key: row.count(key) for key in SHAPE},
        "source": "measured table, layer operators",
    }


def _case(rows: Sequence[Row], assumptions: Mapping[str, Cell]) -> Case:
    first = rows[0]
    reader = RowReader(first, assumptions)
    device, tokens, tensor = first.text("device"), reader.need_count("tokens"), reader.need_count("tp")
    system, unknown = system_of(device)
    if system is None:
        reader.skip(unknown)
    keys: dict[str, Any] = {
        "model": _model(first),
        "system": system,
        "devices": tensor,
        "task.prompt_length": tokens,
        "task.batch_size": 1,
        "plan.tensor_parallel": tensor,
        "plan.precision": "fp16",
    }
    calibration = layer_calibration(system or "")
    if calibration is not None:
        keys["system.calibration"] = calibration
    return Case(
        id=f"{device}/{first.text('model')}/tp{tensor}/tokens{tokens}",
        source=first.text("source") or "layer_ops",
        device=device,
        stack="PyTorch layer",
        dtype="fp16",
        size_class=token_class(tokens),
        assumed=reader.assumed_text(),
        quantities=_quantities(rows),
        kind="prefill",
        scenario={} if reader.reasons else keys,
        reasons=tuple(reader.reasons),
        part="layer",
    )


def layer_cases(rows: Sequence[Row], assumptions: Mapping[str, Cell]) -> list[Case]:
    """Turn the rows of ``layer_ops`` into cases, one for each layer.

    Parameters
    ----------
    rows : sequence of Row
        Typed cells, one operator each.
    assumptions : mapping of str to value
        Values for fields that are blank.

    Returns
    -------
    list of Case
        One for each device, model, tensor degree and number of tokens, in order of first appearance: the sum
        over the operators of a layer without its attention core, and the embedding. Repeated rows are averaged.

    Raises
    ------
    SpecError
        If the catalog cannot be read.
    """
    groups: dict[tuple[Cell, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row.cells.get(name) for name in ("device", "model", "tp", "tokens", *SHAPE, "gated"))
        groups.setdefault(key, []).append(row)
    return [_case(members, assumptions) for members in groups.values()]
