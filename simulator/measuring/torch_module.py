"""Finding PyTorch and a device of it, with a way out where there is none."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from hardware_specs.errors import Problem, ScenarioError

__all__ = ["DEVICES", "INSTALL", "check_torch", "chosen_device"]

DEVICES = ("cpu", "cuda", "mps", "xpu")
INSTALL = "pip install 'llmsim[measure]'"


def check_torch() -> None:
    """Refuse to go on without PyTorch: ScenarioError that says how to install it."""
    if find_spec("torch") is None:
        rule = "needs PyTorch, which is not installed"
        raise ScenarioError([Problem(path="llmsim measure", value="", rule=rule, fix=INSTALL)])


def _present(torch: Any) -> list[str]:
    """Devices that this build of PyTorch can use here."""
    there = {
        "cuda": bool(torch.cuda.is_available()),
        "mps": bool(torch.backends.mps.is_available()),
        "xpu": hasattr(torch, "xpu") and bool(torch.xpu.is_available()),
    }
    return ["cpu", *(name for name, found in there.items() if found)]


def chosen_device(name: str) -> str:
    """The device to measure.

    Parameters
    ----------
    name : str
        One of ``DEVICES``.

    Returns
    -------
    str
        The same name.

    Raises
    ------
    ScenarioError
        If PyTorch is missing, or the device is unknown or not there; the ones that are there are named.
    """
    check_torch()
    import torch

    there = _present(torch)
    if name not in DEVICES:
        rule, fix = "is no device of PyTorch that can be measured", f"use {', '.join(DEVICES)}"
        raise ScenarioError([Problem(path="--device", value=name, rule=rule, fix=fix)])
    if name not in there:
        rule = f"is not there: torch {torch.__version__} finds {', '.join(there)}"
        fix = f"use --device {there[-1]}, or install a PyTorch build for this device and its driver"
        raise ScenarioError([Problem(path="--device", value=name, rule=rule, fix=fix)])
    return name
