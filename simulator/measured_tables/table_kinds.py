"""Which measured tables are read, the columns of each, and telling them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hardware_specs.errors import Problem, ScenarioError, SpecError, near_names, shorten
from simulator.measured_tables.kernel_kinds import KERNEL_KINDS
from simulator.measured_tables.table_kind import CellType, TableKind

__all__ = ["KINDS", "CellType", "TableKind", "kind_of", "refuse"]

KINDS: dict[str, TableKind] = {
    "training_runs": TableKind(
        name="training_runs",
        needed={
            "id": "text",
            "framework": "text",
            "model": "text",
            "accelerator": "text",
            "precision": "text",
            "zero_stage": "text",
            "recompute": "text",
            "n_layers": "count",
            "hidden": "count",
            "ffn": "count",
            "heads": "count",
            "vocab": "count",
            "seq_len": "count",
            "n_accelerators": "count",
            "tp": "count",
            "pp": "count",
            "micro_batch": "count",
            "global_batch": "count",
        },
        optional={
            "source": "text",
            "date": "text",
            "interconnect": "text",
            "workload": "text",
            "outcome": "text",
            "notes": "text",
            "quality": "text",
            "kv_heads": "count",
            "head_dim": "count",
            "params_b": "positive",
            "gated_mlp": "flag",
            "experts": "number",
            "topk": "count",
            "moe_ffn": "count",
            "shared_experts": "number",
            "first_dense_layers": "number",
            "accelerators_per_node": "count",
            "vpp": "count",
            "cp": "count",
            "ep": "count",
            "dp": "count",
            "grad_accum": "count",
            "sequence_parallel": "flag",
            "flash_attention": "flag",
            "series_latest": "flag",
            "measured_step_time_s": "positive",
            "measured_tokens_per_s_per_device": "positive",
            "measured_peak_memory_gib": "positive",
            "measured_model_tflops_per_device": "positive",
            "flops_convention": "text",
        },
        one_of=("measured_step_time_s", "measured_tokens_per_s_per_device", "measured_peak_memory_gib"),
    ),
    "models_e2e": TableKind(
        name="models_e2e",
        needed={
            "device": "text",
            "model": "text",
            "phase": "text",
            "seq": "count",
            "batch": "count",
            "measured_ms": "positive",
        },
        optional={"source": "text", "option": "text", "dtype": "text"},
    ),
    "layer_ops": TableKind(
        name="layer_ops",
        needed={
            "device": "text",
            "model": "text",
            "tp": "count",
            "tokens": "count",
            "op": "text",
            "median_us": "positive",
            "hidden": "count",
            "ffn": "count",
            "heads": "count",
            "kv_heads": "count",
            "vocab": "count",
        },
        optional={"source": "text", "gated": "flag"},
    ),
    "energy_serving": TableKind(
        name="energy_serving",
        needed={
            "device": "text",
            "model": "text",
            "precision": "text",
            "tp": "count",
            "batch": "positive",
            "avg_output_len": "positive",
            "J_per_out_token": "positive",
        },
        optional={
            "source": "text",
            "framework": "text",
            "task": "text",
            "n_devices": "count",
            "isl": "count",
            "dp": "count",
            "itl_median_ms": "positive",
            "total_params_b": "positive",
        },
    ),
}
KINDS["measured_runs"] = TableKind(
    name="measured_runs",
    needed={
        "id": "text",
        "device": "text",
        "phase": "text",
        "mode": "text",
        "dtype": "text",
        "seq_len": "count",
        "batch": "count",
        "n_layers": "count",
        "hidden": "count",
        "heads": "count",
        "ffn": "count",
        "vocab": "count",
        "measured_ms": "positive",
    },
    optional={
        "source": "text",
        "framework": "text",
        "version": "text",
        "machine": "text",
        "strategy": "text",
        "processes": "count",
        "measured_peak_memory_mib": "positive",
        "spread": "number",
        "reference_us": "positive",
        "quality": "text",
    },
)
KINDS |= KERNEL_KINDS
# Tables of the same collection that this version recognises but does not score, by telling columns.
UNSCORED: Mapping[str, tuple[str, ...]] = {
    "collectives": ("n_gpus", "bytes", "latency_us"),
    "inference_e2e": ("isl", "osl"),
    "micro": ("op", "value", "unit", "efficiency"),
}


def refuse(path: Path | str, rule: str, fix: str = "", value: str = "") -> SpecError:
    """The error of a file that cannot be scored."""
    return SpecError([Problem(path=str(path), value=value, rule=rule, fix=fix)])


def kind_of(path: Path, header: Sequence[str], table: str | None) -> TableKind:
    """Kind of a table.

    Parameters
    ----------
    path : Path
        The file, for messages.
    header : sequence of str
        Its columns.
    table : str or None
        The kind that the user named.

    Returns
    -------
    TableKind
        The named kind, else the only one whose needed columns are there.

    Raises
    ------
    ScenarioError
        If the name is unknown, the kind is ambiguous, or the table is not scored in this version.
    SpecError
        If columns are missing.
    """
    scored = ", ".join(KINDS)
    if table is not None:
        if table in UNSCORED:
            raise ScenarioError(
                [
                    Problem(
                        path="--table",
                        value=table,
                        rule="is not scored in this version",
                        fix=f"scored are {scored}",
                    )
                ]
            )
        if table not in KINDS:
            near = ", ".join(near_names(table, [*KINDS, *UNSCORED])) or scored
            raise ScenarioError(
                [
                    Problem(
                        path="--table", value=shorten(table), rule="is not a known table", fix=f"use {near}"
                    )
                ]
            )
        lacking = KINDS[table].missing(header)
        if lacking:
            raise refuse(path, f"lacks columns of {table}: {', '.join(lacking)}")
        return KINDS[table]
    fitting = [kind for kind in KINDS.values() if not kind.missing(header)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " or ".join(kind.name for kind in fitting)
        raise ScenarioError(
            [Problem(path="--table", value="", rule=f"the columns fit {names}", fix="name one")]
        )
    for name, telling in UNSCORED.items():
        if all(column in header for column in telling):
            raise ScenarioError(
                [
                    Problem(
                        path=str(path),
                        value=name,
                        rule="is a table that this version does not score",
                        fix=f"scored are {scored}",
                    )
                ]
            )
    nearest = min(KINDS.values(), key=lambda kind: len(kind.missing(header)) / len(kind.needed))
    rule = f"has the columns of no scored table ({scored}); nearest is {nearest.name}, which also needs"
    raise refuse(path, f"{rule} {', '.join(nearest.missing(header))}")
