"""Optimizers: bytes of state per parameter, and what their update costs beside the passes over memory."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import PrecisionColumns
from simulator.rules import rule
from simulator.scenarios.scenario import Optimizer

FloatArray = NDArray[np.float64]

OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
CODE = {name: float(number) for number, name in enumerate(OPTIMIZERS)}
# Moments in the type of the states, one number each per parameter.
MOMENTS = {"adam": 2.0, "adamw": 2.0, "sgd_momentum": 1.0, "muon": 1.0}
# One byte and, for each block of 2048, one fp32 scale (Dettmers et al., arXiv:2110.02861, section 2.1).
EIGHT_BIT_BYTES = 1.0 + 4.0 / 2048


@rule(
    symbol="s",
    formula="u + m w, m = 2 (adam, adamw), 1 (sgd_momentum, muon), 0 (sgd); adam_8bit u + 2 (1 + 4/2048); adafactor "
    "u + 2 w / h",
    unit="B",
    source="Kingma and Ba, arXiv:1412.6980; Dettmers et al., arXiv:2110.02861; Shazeer and Stern, arXiv:1804.04235 "
    "(rows and columns of a matrix, without momentum); Liu et al., arXiv:2502.16982 (matrices only)",
)
def optimizer_state_bytes(
    *, optimizer: FloatArray, master_bytes: FloatArray, moment_bytes: FloatArray, hidden: FloatArray
) -> FloatArray:
    """Optimizer states per parameter of a matrix [byte].

    ``optimizer`` is a code (:data:`OPTIMIZERS`), ``master_bytes`` the fp32 copy of the weights, zero where they are it,
    ``moment_bytes`` the width of one moment [byte], ``hidden`` the shorter side of matrices [1]. Broadcasts; raises
    nothing.
    """
    count = np.zeros(1)
    for name, moments in MOMENTS.items():
        count = count + moments * (optimizer == CODE[name])
    narrow = 2.0 * EIGHT_BIT_BYTES * (optimizer == CODE["adam_8bit"])
    factored = 2.0 * moment_bytes / hidden * (optimizer == CODE["adafactor"])
    return count * moment_bytes + narrow + factored + master_bytes


def with_optimizer(
    precision: PrecisionColumns, optimizer: FloatArray, hidden: FloatArray
) -> PrecisionColumns:
    """Widths under the plan's optimizer: of matrices, and of embedding and head, which Muon leaves to AdamW.

    Codes and sizes [1]; raises nothing.
    """
    if not np.any(optimizer > CODE["adamw"]):
        return precision

    def width(codes: FloatArray) -> FloatArray:
        return optimizer_state_bytes(
            optimizer=codes, master_bytes=precision.master, moment_bytes=precision.moment, hidden=hidden
        )

    ends = np.where(optimizer == CODE["muon"], CODE["adamw"], optimizer)
    return replace(precision, optimizer=width(optimizer), optimizer_ends=width(ends))
