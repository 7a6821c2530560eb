"""Products of a device and some stacks, as in a calibration: every number format that was timed."""

from __future__ import annotations

from collections.abc import Sequence

from hardware_specs import load_accelerator
from simulator.fitting.devices import of_device
from simulator.fitting.fit_gemm import fit_gemm
from simulator.fitting.measured_gemm import GEMM_FORMATS, format_key, timed_from_host
from simulator.fitting.measured_kernels import Tables, read_table
from simulator.fitting.rows import Families

__all__ = ["gemm_families"]

EAGER_ONLY = ("fp32",)


def gemm_families(folder: Tables, accelerator: str, stacks: Sequence[str]) -> Families:
    """Fits of every format that the stacks have rows of, products and the passes that narrow their activations.

    Parameters
    ----------
    folder : Path or mapping
        Where the tables are.
    accelerator : str
        Catalog name.
    stacks : sequence of str
        Frameworks, fitted together with the same say.

    Returns
    -------
    dict
        Families "matmul" and "quantise" by type; fp16 is as bf16, which stands for "any" as well.

    Raises
    ------
    FileNotFoundError
        If the table is missing.
    """
    frame = of_device(read_table(folder, "kernels_gemm"), accelerator)
    frame = frame[~timed_from_host(frame)]
    board = load_accelerator(accelerator)
    families: Families = {"matmul": {}, "quantise": {}}
    for dtype in GEMM_FORMATS:
        timed = set(frame.framework[frame.dtype == dtype])
        chosen = [stack for stack in stacks if stack in timed]
        name = format_key(board, dtype)
        if not chosen or dtype in EAGER_ONLY or name is None:
            continue
        found = fit_gemm(folder, accelerator, dtype, chosen)
        families["matmul"][name] = found.gemm
        if found.quantise is not None:
            families["quantise"][name] = found.quantise
    if "bf16" in families["matmul"]:
        wide = families["matmul"]["bf16"]
        families["matmul"]["fp16"] = wide.model_copy(
            update={"source": f"as bf16, same units and rate: {wide.source}"}
        )
        families["matmul"]["any"] = type(wide).of(
            wide.coefficients(), basis="assumed", source="coefficients of bf16; no row of another type"
        )
    if passes := families["quantise"]:
        first, narrowing = next(iter(passes.items()))
        passes["any"] = type(narrowing).of(
            narrowing.coefficients(),
            basis="assumed",
            source=f"coefficients of {first}; no pass into another type was measured",
        )
    return {family: fits for family, fits in families.items() if fits}
