"""How long the kernels around grouped products run: they move rows, and are limited by memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

__all__ = ["moe_dispatch_time"]

FloatArray = NDArray[np.float64]


@rule(
    symbol="T",
    formula="[B > 0] t0 + max(F/P, (B + s X b)/(em W))",
    unit="s",
    source="fixed cost and a stream of bytes; kernels that also walk over the rows of other ranks' experts move "
    "them too (X elements), as vLLM's do under expert parallelism",
)
def moe_dispatch_time(
    *,
    flop: FloatArray,
    moved_bytes: FloatArray,
    foreign_elements: FloatArray,
    operand_bytes: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    fixed_s: FloatArray,
    memory_efficiency: FloatArray,
    foreign_share: FloatArray,
) -> FloatArray:
    r"""Time of sorting rows to experts, of the experts' activation, or of the weighted sum.

    .. math:: T = [F + B > 0]\, t_0 + \max\left(F / P, (B + s\, X\, b) / (e_m W)\right)

    Parameters
    ----------
    flop, moved_bytes : ndarray, any shapes that broadcast
        :math:`F` [FLOP] and :math:`B` [byte] of this rank's rows.
    foreign_elements : ndarray
        :math:`X`, what the same kernel would touch for rows routed to other ranks' experts; 0 where each rank
        holds all experts [1].
    operand_bytes : ndarray
        :math:`b` bytes of one element of a row [byte].
    peak_flop_per_s, bandwidth_bytes_per_s : ndarray
        :math:`P` of the vector units [FLOP/s], :math:`W` [byte/s].
    fixed_s, memory_efficiency, foreign_share : ndarray
        :math:`t_0` [s], :math:`e_m` and :math:`s` [1]; see `hardware_specs.kernel_fits.moe.MoeDispatchFit`.

    Returns
    -------
    ndarray
        Seconds [s], broadcast shape. Zero work takes zero time.

    Raises
    ------
    FloatingPointError
        Never for legal input: the schema keeps rates and efficiencies positive.

    Notes
    -----
    Without coefficients the bound is ``max(F/P, B/W)`` of the rank's own rows.
    """
    touched_bytes = moved_bytes + foreign_share * foreign_elements * operand_bytes
    stream_s = touched_bytes / (memory_efficiency * bandwidth_bytes_per_s)
    busy_s = np.maximum(flop / peak_flop_per_s, stream_s)
    return np.where(flop + moved_bytes > 0, fixed_s + busy_s, 0.0)
