"""A whole calibration around what a user's rows gave: the rest from a sibling, marked as not measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

import yaml

from hardware_specs import CalibrationSpec
from hardware_specs.calibration import Task
from hardware_specs.errors import Problem, SpecError, shorten
from hardware_specs.figure import Basis
from hardware_specs.kernel_fits import FitEvidence, HostFit, KernelFits
from hardware_specs.schema import AcceleratorSpec
from simulator.fitting.user_calibration import FittedFamily

__all__ = ["calibration_name", "calibration_text", "completed"]

NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
LONGEST_NAME = 80
TWINS = {"bf16": "fp16", "fp16": "bf16"}
WIDEST = ("bf16", "fp16", "tf32", "fp32", "fp64")


def calibration_name(name: str | None, accelerator: str, stack: str) -> str:
    """The name that was given, else one of accelerator and stack; SpecError for one that no file can have."""
    if name is None:
        words = re.sub(r"[^a-z0-9]+", "-", stack.lower()).strip("-") or "measured"
        return f"{accelerator}-{words}"[:LONGEST_NAME].strip("-")
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        rule = f"must be at most {LONGEST_NAME} small letters and digits, parts joined by - or ."
        raise SpecError(
            [Problem(path="--name", value=shorten(name), rule=rule, fix="write such as my-h100-vllm")]
        )
    return name


def completed(
    fitted: Sequence[FittedFamily],
    *,
    accelerator: AcceleratorSpec,
    name: str,
    stack: str,
    tasks: Sequence[Task],
    base: CalibrationSpec,
    host: HostFit | None = None,
) -> CalibrationSpec:
    """A calibration of the fitted families, all others as in ``base``.

    Parameters
    ----------
    fitted : sequence of FittedFamily
        From the user's rows.
    accelerator : AcceleratorSpec
        Whose.
    name, stack : str
        Of the calibration; the stack is part of what it is, since software moves results by 3 to 20 %.
    tasks : sequence of str
        What the software is used for.
    base : CalibrationSpec
        Where the rest comes from: "derived" if it serves this accelerator, else "assumed". fp16 and bf16 stand
        for one another, and ``any`` for the widest type that was fitted.
    host : HostFit, optional
        Time between operators of eager code, where it was measured.

    Returns
    -------
    CalibrationSpec
        Checked by the schema. Raises nothing.
    """
    basis: Basis = "derived" if accelerator.name in base.applies_to else "assumed"
    kernels: dict[str, dict[str, FitEvidence]] = {
        family: {dtype: _unmeasured(fit, base.name, basis) for dtype, fit in fits.items()}
        for family, fits in base.kernels.by_family().items()
    }
    for family in dict.fromkeys(item.family for item in fitted):
        own = {item.dtype: item.fit for item in fitted if item.family == family}
        for dtype, twin in TWINS.items():
            if dtype in own and twin not in own:
                own[twin] = own[dtype].model_copy(update={"source": f"as {dtype}: {own[dtype].source}"})
        widest = next((dtype for dtype in WIDEST if dtype in own), None)
        if "any" not in own and widest is not None:
            own["any"] = type(own[widest]).of(
                own[widest].coefficients(),
                basis="assumed",
                source=f"coefficients of {widest}; no row of another type",
            )
        kernels[family] = {**kernels.get(family, {}), **own}
    return CalibrationSpec(
        schema_version=1,
        name=name,
        applies_to=[accelerator.name],
        tasks=list(tasks),
        stack=stack,
        date=date.today().isoformat(),
        kernels=KernelFits.model_validate(kernels),
        host=host,
    )


def _from(name: str, source: str) -> str:
    return f"no row in the data; {name}: {source}"


def _unmeasured(fit: FitEvidence, name: str, basis: Basis) -> FitEvidence:
    known: Basis = "assumed" if fit.basis == "assumed" else basis
    update = {"basis": known, "source": _from(name, fit.source), "rows": 0, "error": {}, "fitted_range": {}}
    return fit.model_copy(update=update)


def calibration_text(calibration: CalibrationSpec, files: Sequence[str]) -> str:
    """The YAML file of a calibration, in the keys of the schema; raises nothing."""
    header = f"# Written by llmsim calibrate from {', '.join(files)}.\n"
    data = calibration.model_dump(mode="json", exclude_defaults=True)
    return header + yaml.safe_dump(data, sort_keys=False, width=110, allow_unicode=False)
