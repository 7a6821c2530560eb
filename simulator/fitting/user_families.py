"""What a user's tables hold: kernel families and types as samples, and the rows that no fit has a place for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hardware_specs.errors import Problem
from hardware_specs.kernel_fits import KernelFamily
from hardware_specs.schema import AcceleratorSpec
from simulator.fitting.measured_attention import BYTES as ATTENTION_BYTES
from simulator.fitting.measured_attention import (
    AttentionDevice,
    AttentionRows,
    attention_samples,
)
from simulator.fitting.measured_gemm import GEMM_FORMATS, format_key, gemm_samples
from simulator.fitting.measured_moe import MOE_FORMATS, MoeRows, moe_rows
from simulator.fitting.measured_streaming import ARITHMETIC, EAGER_BYTES, EAGER_READS, eager_samples
from simulator.fitting.samples import KernelSamples, join_samples
from simulator.fitting.user_tables import UserTables

__all__ = ["Aside", "UserFamilies", "families_of"]

NO_PLACE = "a calibration has no coefficients for this type"
# Tables of loops that stayed in L2 lose 8 to 21 % of the tokens' rows to the memory's peak, the others at most 2 %.
RESIDENT_SHARE = 0.05
UNFIT = "above the memory's peak, or timed from the host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """Rows that were read and not fitted: of what, how many [1], and why."""

    what: str
    rows: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFamilies:
    """Samples of a device by family and type of a calibration, MoE layers apart, what is left aside, and mistakes.

    ``pace`` is how far the machine's pace wandered, a standard deviation in ln [1].
    """

    accelerator: AcceleratorSpec
    samples: dict[tuple[KernelFamily, str], KernelSamples] = field(default_factory=dict)
    moe: dict[str, MoeRows] = field(default_factory=dict)
    aside: list[Aside] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    pace: float = 0.0

    @property
    def processor(self) -> bool:
        """Whether the device is one whose cores work alone, which has forms of its own."""
        return self.accelerator.kind == "cpu"

    def _add(self, family: KernelFamily, dtype: str, samples: KernelSamples) -> None:
        key = (family, dtype)
        parts = [self.samples[key], samples] if key in self.samples else [samples]
        if len(samples):
            self.samples[key] = join_samples(parts)

    def _leave(self, what: str, rows: int, why: str) -> None:
        if rows:
            self.aside.append(Aside(what=what, rows=rows, why=why))


def families_of(tables: UserTables) -> UserFamilies:
    """Every family and type that the tables have rows of.

    Parameters
    ----------
    tables : UserTables
        Checked rows of one device.

    Returns
    -------
    UserFamilies
        ``problems`` names types that the device has no matmul units for. Raises nothing.
    """
    found = UserFamilies(accelerator=tables.accelerator, pace=tables.pace)
    found._leave(
        "all families", tables.noisy, "noisy: repeats disagree, or the machine did other work beside them"
    )
    if "kernels_gemm" in tables.frames:
        _products(tables, found)
    if "kernels_attention" in tables.frames:
        _attention(tables, found)
    if "kernels_elementwise" in tables.frames:
        _streaming(tables, found)
    if "kernels_moe" in tables.frames:
        _moe(tables, found)
    return found


def _lacks_units(tables: UserTables, dtype: str, table_dtype: str, kind: str, found: UserFamilies) -> bool:
    device = tables.accelerator
    units = {*device.matmul_flop_per_unit_clock, *device.peak}
    if dtype in units:
        return False
    frame = tables.frames[kind]
    rows = frame[frame.dtype == table_dtype]
    first = rows.iloc[0]
    problem = Problem(
        path=f"{first.file}, row {first.row}, column dtype",
        value=table_dtype,
        rule=f"{device.name} has no matmul units for {dtype} ({len(rows)} rows)",
        fix=f"it has {', '.join(sorted(units))}: check --device, or leave these rows out of the data",
    )
    found.problems.append(problem)
    return True


def _products(tables: UserTables, found: UserFamilies) -> None:
    for name, rows in tables.frames["kernels_gemm"].groupby("dtype"):
        dtype, kept = str(name), 0
        if dtype not in GEMM_FORMATS:
            found._leave(f"matmul {dtype}", len(rows), NO_PLACE)
            continue
        key = format_key(tables.accelerator, dtype)
        if key is None:
            _lacks_units(tables, GEMM_FORMATS[dtype].compute, dtype, "kernels_gemm", found)
            continue
        families: tuple[KernelFamily, ...] = ("matmul", "batched_matmul")
        for family in families:
            try:
                samples = gemm_samples(tables.frames, tables.accelerator, dtype, family=family)
            except ValueError:
                continue  # no such row
            kept += len(samples)
            found._add(family, key, samples)
        found._leave(f"matmul {dtype}", len(rows) - kept, UNFIT)


def _keys(tables: UserTables) -> Iterator[tuple[str, str, str, str, int]]:
    columns = ["kind", "phase", "dtype", "kv_dtype"]
    for (kind, phase, dtype, kv_dtype), rows in tables.frames["kernels_attention"].groupby(columns):
        yield str(kind), str(phase), str(dtype), str(kv_dtype), len(rows)


def _attention(tables: UserTables, found: UserFamilies) -> None:
    name = tables.accelerator.name
    for kind, phase, dtype, kv_dtype, count in _keys(tables):
        latent, prompts = kind == "mla", phase == "prefill"
        what = f"{kind} {phase} {dtype} over {kv_dtype}"
        if dtype not in ATTENTION_BYTES or kv_dtype not in ATTENTION_BYTES:
            found._leave(what, count, NO_PLACE)
            continue
        # Prompts are told apart by the type that they compute in, single tokens by that of the cache.
        if (prompts and dtype != kv_dtype) or (not prompts and ATTENTION_BYTES[dtype] < 2.0):
            found._leave(
                what, count, "a calibration has one set of coefficients for each compute or cache type"
            )
            continue
        if _lacks_units(tables, dtype, dtype, "kernels_attention", found):
            continue
        rows = AttentionRows(
            device=AttentionDevice(table=name, accelerator=name, own=tables.accelerator),
            phase=phase,
            dtype=dtype,
            kv_dtype=kv_dtype,
            latent=latent,
        )
        samples = attention_samples(tables.frames, rows)
        if not prompts and not latent and len(samples) < (1.0 - RESIDENT_SHARE) * count:
            rows = replace(rows, device=replace(rows.device, resident=True))
            samples = attention_samples(tables.frames, rows)
        family: KernelFamily = (
            ("mla_prefill" if prompts else "mla_decode")
            if latent
            else ("attention_prefill" if prompts else "attention_decode")
        )
        found._add(family, dtype if prompts else kv_dtype, samples)
        why = "repeated, prompts below 16 tokens, or faster than the memory"
        found._leave(what, count - len(samples), why)


def _streaming(tables: UserTables, found: UserFamilies) -> None:
    frame = tables.frames["kernels_elementwise"]
    known = {op for reads in EAGER_READS.values() for op in reads}
    for name, rows in frame.groupby("op"):
        if name not in known:
            found._leave(f"elementwise {name}", len(rows), f"not one of {', '.join(sorted(known))}")
    for name, rows in frame[frame.op.isin(known)].groupby("dtype"):
        if name not in EAGER_BYTES:
            found._leave(f"elementwise {name}", len(rows), f"not one of {', '.join(EAGER_BYTES)}")
    families: tuple[KernelFamily, ...] = (
        "pointwise",
        "activation",
        "layer_norm",
        "rms_norm",
        "softmax",
        "embedding",
        "optimizer",
    )
    for family in families:
        bandwidth = tables.accelerator.memory_bandwidth.value
        # Where arithmetic does not hide behind the stream, an activation is no plain kernel.
        without = ARITHMETIC if found.processor and family == "pointwise" else ()
        samples = eager_samples(
            tables.frames, tables.accelerator.name, bandwidth, family, tuple(EAGER_BYTES), without
        )
        found._add(family, "any", samples)


def _moe(tables: UserTables, found: UserFamilies) -> None:
    for name, rows in tables.frames["kernels_moe"].groupby("dtype"):
        table_dtype = str(name)
        if table_dtype not in MOE_FORMATS:
            found._leave(f"moe {table_dtype}", len(rows), NO_PLACE)
        elif not _lacks_units(tables, MOE_FORMATS[table_dtype].compute, table_dtype, "kernels_moe", found):
            layers = moe_rows(tables.frames, tables.accelerator.name, table_dtype)
            found.moe[table_dtype] = layers
