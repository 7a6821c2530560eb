"""How long it takes to turn activations into a narrower type, with a scale per tensor, row or block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

__all__ = ["quantise_time"]

FloatArray = NDArray[np.float64]


@rule(
    symbol="T",
    formula="[w > 0] t0 + max(F/P, B/(em W), r c/S)",
    unit="s",
    source="fixed cost and a stream of bytes; a block of threads takes one row at a time and finds its largest "
    "value first (vLLM, csrc/quantization/w8a8/fp8/common.cu, dynamic per-token scales)",
)
def quantise_time(
    *,
    flop: FloatArray,
    moved_bytes: FloatArray,
    rows: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    units: FloatArray,
    fixed_s: FloatArray,
    memory_efficiency: FloatArray,
    row_unit_s: FloatArray,
) -> FloatArray:
    r"""Time of one pass over activations.

    .. math:: T = [F + B > 0]\, t_0 + \max\left(\frac{F}{P},\; \frac{B}{e_m W},\; \frac{r\, c}{S}\right)

    Parameters
    ----------
    flop, moved_bytes : ndarray, any shapes that broadcast
        :math:`F` [FLOP]; :math:`B`, the wide tensor read once and the narrow one written once [byte].
    rows : ndarray
        :math:`r` rows, one scale each or several [1].
    peak_flop_per_s, bandwidth_bytes_per_s, units : ndarray
        :math:`P` of the vector units [FLOP/s], :math:`W` [byte/s], :math:`S` compute units [1].
    fixed_s, memory_efficiency, row_unit_s : ndarray
        :math:`t_0` [s], :math:`e_m` [1] and :math:`c` [s]; see `hardware_specs.kernel_fits.quantise.QuantiseFit`.

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
    A pass that finds one scale for the whole tensor reads it twice, which the efficiency takes up.
    """
    stream_s = moved_bytes / (memory_efficiency * bandwidth_bytes_per_s)
    busy_s = np.maximum(np.maximum(flop / peak_flop_per_s, stream_s), rows * row_unit_s / units)
    return np.where(flop + moved_bytes > 0, fixed_s + busy_s, 0.0)
