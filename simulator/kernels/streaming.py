"""How long a kernel runs that streams through memory: pointwise, norm, softmax, lookup, optimizer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.kernels.smooth_maximum import powered
from simulator.rules import rule

FloatArray = NDArray[np.float64]
SPILL_EXPONENT = 2.0  # how suddenly a stream outgrows a cache that other data share


@rule(
    symbol="T",
    formula="[w > 0] t0 + max(F / P, (max(1, n / r) ((R - H) (1 + q m) / e_r + V / e_w) + H / e_r) / W (1 + x u)); "
    "m = 1 - 1 / (1 + (c / c_half)^s), u = 1 - 1 / (1 + ((R + V) / R_half)^2)",
    unit="s",
    source="bytes over sustained bandwidth with a fixed cost; reads and writes apart, as DRAM turns its bus "
    "between them; a block per row (PyTorch, aten/src/ATen/native/cuda/layer_norm_kernel.cu and SoftMax.cu: rows are "
    "read two and three times); a cache keeps short streams (McCalpin, STREAM, IEEE TCCA Newsletter, 1995: arrays of "
    "four times the cache, so that none stays)",
)
def streaming_time(
    *,
    flop: FloatArray,
    read_bytes: FloatArray,
    written_bytes: FloatArray,
    shared_bytes: FloatArray,
    rows: FloatArray,
    row_bytes: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    read_efficiency: FloatArray,
    write_efficiency: FloatArray,
    fixed_s: FloatArray,
    saturating_rows: FloatArray,
    rereads: FloatArray,
    resident_row_bytes: FloatArray,
    row_sharpness: FloatArray,
    spill: FloatArray,
    resident_bytes: FloatArray,
) -> FloatArray:
    r"""Time of one memory-bound kernel on one device.

    .. math:: T = [w > 0]\, t_0 + \max\left(\frac{F}{P},\; \left(\max\left(1, \frac{n}{r}\right)
              \left(\frac{(R - H)(1 + q\,m)}{e_r} + \frac{V}{e_w}\right) + \frac{H}{e_r}\right)
              \frac{1 + x u}{W}\right), \qquad
              m = 1 - \frac{1}{1 + (c / c_{1/2})^{s}}, \quad
              u = 1 - \frac{1}{1 + ((R + V) / R_{1/2})^{2}}

    Parameters
    ----------
    flop : ndarray, any shapes that broadcast
        :math:`F` [FLOP].
    read_bytes, written_bytes : ndarray
        :math:`R, V`, each tensor counted once [byte].
    shared_bytes : ndarray
        :math:`H`, the part of what is read that all rows share, such as the weights of a norm [byte].
    rows, row_bytes : ndarray
        :math:`r` rows that blocks work on [1] and :math:`c` bytes of one [byte].
    peak_flop_per_s, bandwidth_bytes_per_s : ndarray
        :math:`P` peak of the vector units [FLOP/s] and :math:`W` memory bandwidth [byte/s].
    read_efficiency, write_efficiency : ndarray
        :math:`e_r, e_w` in (0, 1] [1].
    fixed_s : ndarray
        :math:`t_0`, cost of launching and draining a kernel [s].
    saturating_rows : ndarray
        :math:`n`, rows that occupy the device: fewer leave units idle and take as long as these [1].
    rereads : ndarray
        :math:`q`, how often the kernel reads a row again: 1 in a norm, 2 in a softmax of several passes [1].
    resident_row_bytes, row_sharpness : ndarray
        :math:`c_{1/2}`, length of a row that misses the caches half the time [byte], and :math:`s \ge 1` [1].
    spill, resident_bytes : ndarray
        :math:`x`, how much longer a stream takes that no cache holds [1], and :math:`R_{1/2}`, the bytes of which half
        stays from one kernel to the next [byte]. Only where W is the bandwidth of a cache, as on a processor whose
        cores share one.

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
    All rows in flight share the cache, so a row stays if it is shorter than the cache over the rows in flight: a
    device of the same kind has :math:`c_{1/2}` in proportion to its L2 per unit. At least
    ``max(F / P, (R + V) / W)``, since efficiencies are at most 1 and factors at least 1. Idle units lengthen only
    what grows with the rows: otherwise one more row would make shared bytes, and the kernel, faster.
    """
    read, shared = (read_bytes - shared_bytes) / read_efficiency, shared_bytes / read_efficiency
    if np.any(rereads):  # of the families only norms and softmax: powers are the dear part of the rule
        longer = powered(row_bytes / resident_row_bytes, row_sharpness)
        read = read * (1.0 + rereads * (1.0 - 1.0 / (1.0 + longer)))
    # Less than a row is a row.
    idle = np.maximum(saturating_rows / np.maximum(rows, 1.0), 1.0)
    memory_s = (idle * (read + written_bytes / write_efficiency) + shared) / bandwidth_bytes_per_s
    if np.any(spill):
        outgrown = ((read_bytes + written_bytes) / resident_bytes) ** SPILL_EXPONENT
        memory_s = memory_s * (1.0 + spill * (1.0 - 1.0 / (1.0 + outgrown)))
    busy_s = np.maximum(flop / peak_flop_per_s, memory_s)
    return np.where(busy_s > 0, fixed_s + busy_s, 0.0)
