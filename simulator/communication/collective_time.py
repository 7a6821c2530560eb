"""How long a collective's traffic takes on one tier of the fabric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

FloatArray = NDArray[np.float64]


@rule(
    symbol="T",
    formula="L + t + kappa sqrt(a t), L = a + al n; zero where t is",
    unit="s",
    source="Hockney, Parallel Computing 20(3), 1994, doi:10.1016/S0167-8191(06)80021-9 (latency and "
    "bandwidth); the square root is the cost of the best chunk size of a pipelined transfer",
)
def collective_time(
    *,
    transfer_s: FloatArray,
    n_steps: FloatArray,
    base_latency_s: FloatArray,
    step_latency_s: FloatArray,
    ramp: FloatArray,
) -> FloatArray:
    r"""Time of a collective whose busiest link works for ``transfer_s`` in ``n_steps`` dependent exchanges.

    .. math:: T = L + t + \kappa \sqrt{a\, t}, \quad L = a + a_l n

    Parameters
    ----------
    transfer_s : ndarray, any shapes that broadcast
        :math:`t`, bytes over the bandwidth that is sustained, on the busiest link [s].
    n_steps : ndarray
        :math:`n`, exchanges that cannot overlap each other [1].
    base_latency_s, step_latency_s : ndarray
        :math:`a` once, :math:`a_l` per exchange [s].
    ramp : ndarray
        :math:`\kappa \ge 0` [1]; 0 gives plain latency and bandwidth.

    Returns
    -------
    ndarray
        Seconds, broadcast shape; zero where there is nothing to transfer.

    Raises
    ------
    FloatingPointError
        Never for legal input: the schema keeps latencies and weights from being negative.

    Notes
    -----
    Cutting a transfer into c chunks costs c fixed costs and lets hops overlap; the best c leaves a term that
    grows with the square root of fixed cost times transfer time. Measured rings of 2, 4 and 8 ranks show that the
    term does not grow with the number of exchanges.
    """
    latency_s = base_latency_s + step_latency_s * n_steps
    total: FloatArray = latency_s + transfer_s + ramp * np.sqrt(base_latency_s * transfer_s)
    return np.where(transfer_s > 0, total, 0.0)


@rule(
    symbol="t",
    formula="B / (e W)",
    unit="s",
    source="bytes through a link over the part of its one-way bandwidth that is sustained",
)
def transfer_time(
    *, sent_bytes: FloatArray, bandwidth_bytes_per_s: FloatArray, efficiency: FloatArray
) -> FloatArray:
    """Seconds that ``sent_bytes`` [byte] occupy a link of ``bandwidth_bytes_per_s`` [byte/s], one way, at an
    ``efficiency`` in (0, 1] [1]; broadcasts; raises nothing."""
    return sent_bytes / (efficiency * bandwidth_bytes_per_s)
