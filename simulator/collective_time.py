"""How long a collective's traffic takes on one tier of the fabric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

FloatArray = NDArray[np.float64]


@rule(
    symbol="T",
    formula="L + tb + kappa sqrt(L tb), L = [n > 0] (a + al n), tb = B / (e W)",
    unit="s",
    source="Hockney, Parallel Computing 20(3), 1994, doi:10.1016/S0167-8191(06)80021-9 (latency and "
    "bandwidth); the square root is the cost of the best chunk size of a pipelined transfer",
)
def collective_time(
    *,
    sent_bytes: FloatArray,
    n_steps: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    efficiency: FloatArray,
    base_latency_s: FloatArray,
    step_latency_s: FloatArray,
    ramp: FloatArray,
) -> FloatArray:
    r"""Time of a collective whose ranks each send ``sent_bytes`` in ``n_steps`` dependent exchanges.

    .. math:: T = L + t_b + \kappa \sqrt{L\, t_b}, \quad L = a + a_l n, \quad t_b = B / (e W)

    Parameters
    ----------
    sent_bytes : ndarray, any shapes that broadcast
        :math:`B`, bytes that one rank sends in one direction [byte].
    n_steps : ndarray
        :math:`n`, exchanges that cannot overlap each other [1]; zero means there is nothing to do.
    bandwidth_bytes_per_s : ndarray
        :math:`W`, one-way bandwidth of one rank into the tier [byte/s].
    efficiency : ndarray
        :math:`e` in (0, 1] [1].
    base_latency_s, step_latency_s : ndarray
        :math:`a` once, :math:`a_l` per exchange [s].
    ramp : ndarray
        :math:`\kappa \ge 0` [1]; 0 gives plain latency and bandwidth.

    Returns
    -------
    ndarray
        Seconds, broadcast shape; zero where there are no steps or no bytes.

    Raises
    ------
    FloatingPointError
        Never for legal input: the schema keeps bandwidths and efficiencies positive.

    Notes
    -----
    Cutting a transfer into c chunks costs c + hops latencies and lets hops overlap; the best c leaves a
    term that grows with the square root of latency times transfer time.
    """
    busy = (n_steps > 0) & (sent_bytes > 0)
    latency_s = np.where(busy, base_latency_s + step_latency_s * n_steps, 0.0)
    transfer_s = np.where(busy, sent_bytes / (efficiency * bandwidth_bytes_per_s), 0.0)
    total: FloatArray = latency_s + transfer_s + ramp * np.sqrt(latency_s * transfer_s)
    return total
