"""How long one kernel runs: a fixed cost, then the smooth maximum of computing and moving bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

FloatArray = NDArray[np.float64]


@rule(
    symbol="T",
    formula="[w > 0] t0 + ((F / (ec P))^p + (B / (em W))^p)^(1/p)",
    unit="s",
    source="Williams, Waterman, Patterson, CACM 52(4), 2009, doi:10.1145/1498765.1498785 (roofline), with a "
    "fixed cost per kernel and a p-norm in place of the maximum",
)
def kernel_time(
    *,
    flop: FloatArray,
    moved_bytes: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    compute_efficiency: FloatArray,
    memory_efficiency: FloatArray,
    fixed_s: FloatArray,
    sharpness: FloatArray,
) -> FloatArray:
    r"""Time of one kernel on one device.

    .. math:: T = [F + B > 0]\, t_0 + \left(T_c^{\,p} + T_m^{\,p}\right)^{1/p}, \quad
              T_c = F / (e_c P), \; T_m = B / (e_m W)

    Parameters
    ----------
    flop, moved_bytes : ndarray, any shapes that broadcast
        :math:`F` floating-point operations [FLOP] and :math:`B` bytes read and written in memory [byte].
    peak_flop_per_s, bandwidth_bytes_per_s : ndarray
        :math:`P` dense peak of the compute type [FLOP/s] and :math:`W` memory bandwidth [byte/s].
    compute_efficiency, memory_efficiency : ndarray
        :math:`e_c, e_m` in (0, 1] [1].
    fixed_s : ndarray
        :math:`t_0`, cost of launching and draining a kernel [s].
    sharpness : ndarray
        :math:`p \ge 1` [1]; 1 adds the two times, infinity takes the larger one.

    Returns
    -------
    ndarray
        Seconds, broadcast shape. Zero work takes zero time.

    Raises
    ------
    FloatingPointError
        Never for legal input: the schema keeps peaks, bandwidths and efficiencies positive.

    Notes
    -----
    Computed as ``longer * (1 + (shorter / longer)**p)**(1/p)``, which neither overflows nor loses the
    limit p = infinity. The result is at least ``max(F/P, B/W)`` because the efficiencies are at most 1.
    """
    compute_s = flop / (compute_efficiency * peak_flop_per_s)
    memory_s = moved_bytes / (memory_efficiency * bandwidth_bytes_per_s)
    longer = np.maximum(compute_s, memory_s)
    shorter = np.minimum(compute_s, memory_s)
    ratio = np.divide(shorter, longer, out=np.zeros_like(longer), where=longer > 0)
    overlap = longer * (1.0 + ratio**sharpness) ** (1.0 / sharpness)
    return np.where(longer > 0, fixed_s + overlap, 0.0)
