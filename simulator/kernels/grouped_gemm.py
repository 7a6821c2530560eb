"""How long a grouped matrix product runs: rows sorted by expert, each expert with a matrix of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.kernels.smooth_maximum import smooth_maximum_of_two
from simulator.rules import rule

__all__ = ["TILE_COLUMNS", "TILE_ROWS", "grouped_gemm_time", "row_tiles"]

FloatArray = NDArray[np.float64]

# Tiles of the output that libraries offer; the smallest time counts, as a tuned library picks it. More
# candidates (32 rows, 128 columns) change errors by less than 0.1 percentage points.
TILE_ROWS = (16.0, 64.0, 128.0)
TILE_COLUMNS = (64.0, 256.0)
FLOP_PER_MULTIPLY_ADD = 2.0


def row_tiles(rows: FloatArray, experts_hit: FloatArray, tile_rows: float) -> FloatArray:
    r"""Expected tiles along the rows when each expert's rows are padded to whole tiles.

    .. math:: H + \tfrac12 R / a \ (R \le a H), \qquad R / a + \tfrac12 H \ (R > a H)

    Parameters
    ----------
    rows, experts_hit : ndarray, shapes that broadcast
        :math:`R` rows over :math:`H` experts [1].
    tile_rows : float
        :math:`a` rows of a tile [1].

    Returns
    -------
    ndarray
        Tiles [1], at least ``rows / tile_rows`` and ``experts_hit``; grows with both. Raises nothing.

    Notes
    -----
    An expert with many tiles fills its last one by half on average; one with few rows has one tile.
    """
    full = rows / tile_rows
    tiles: FloatArray = full + experts_hit - 0.5 * np.minimum(full, experts_hit)
    return tiles


@rule(
    symbol="T",
    formula="((c + g (min over tiles a x c' of max(N/S, 1) (max(2 a c' k S/(ec P), (a + c') k b/(beta f)) + tau)"
    " - c))^p + (B/(em W))^p)^(1/p); c = F/(ec P), N = tiles(R, H, a) max(n/c', 1)",
    unit="s",
    source="roofline of Williams, Waterman, Patterson, CACM 52(4), 2009, doi:10.1145/1498765.1498785, over the "
    "tiles of a grouped product: Gale et al., MegaBlocks, arXiv:2211.15841",
)
def grouped_gemm_time(
    *,
    m: FloatArray,
    experts_hit: FloatArray,
    n: FloatArray,
    k: FloatArray,
    flop: FloatArray,
    moved_bytes: FloatArray,
    operand_bytes: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    units: FloatArray,
    clock_hz: FloatArray,
    compute_efficiency: FloatArray,
    memory_efficiency: FloatArray,
    sharpness: FloatArray,
    feed_bytes_per_clock: FloatArray,
    tile_s: FloatArray,
    granularity: FloatArray,
) -> FloatArray:
    r"""Time of one grouped product of (m x k) by one (k x n) matrix for each expert that has rows.

    .. math:: T = \left(T_c^{\,p} + T_m^{\,p}\right)^{1/p}, \quad T_m = B / (e_m W), \quad
              T_c = c + g \left(\min_{a, c'} \max(N / S, 1)\, t_{a c'} - c\right), \quad c = F / (e_c P)

    .. math:: t_{a c'} = \max\left(\frac{2 a c' k}{e_c P / S}, \frac{(a + c')\, k\, b}{\beta f}\right) + \tau

    Parameters
    ----------
    m, experts_hit : ndarray, any shapes that broadcast
        :math:`R` rows of all experts together and :math:`H` experts that have any [1].
    n, k : ndarray
        Columns of the result and length of the inner products [1].
    flop, moved_bytes : ndarray
        :math:`F = 2 R n k` [FLOP], and :math:`B` bytes of the matrices of the experts hit, of the rows read
        and of the rows written [byte].
    operand_bytes : ndarray
        :math:`b` bytes per element as the matrix units take them [byte].
    peak_flop_per_s, bandwidth_bytes_per_s, units, clock_hz : ndarray
        :math:`P` [FLOP/s], :math:`W` [byte/s], :math:`S` compute units [1], :math:`f` [1/s].
    compute_efficiency, memory_efficiency, sharpness, feed_bytes_per_clock, tile_s, granularity : ndarray
        :math:`e_c, e_m, p, \beta` [byte], :math:`\tau` [s] and :math:`g`; see
        `hardware_specs.kernel_fits.grouped_gemm.GroupedGemmFit`.

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
    Tiles are spread over the units without whole waves (a persistent kernel takes the next tile as it comes),
    but one tile is the least: few tiles leave units idle, and a small tile is limited by what one unit can
    take in. The result is at least ``max(F/P, B/W)``: padded rows are at least the rows, and g is at most 1.
    Never decreasing in m, experts hit, n and k; never increasing in bandwidth, clock and peak, nor in
    units when the peak follows them.
    """
    bare_s = flop / (compute_efficiency * peak_flop_per_s)
    unit_flop_per_s = compute_efficiency * peak_flop_per_s / units
    feed_bytes_per_s = feed_bytes_per_clock * clock_hz
    tiled_s: FloatArray = np.full(1, np.inf)
    for tile_rows in TILE_ROWS:
        down = row_tiles(m, experts_hit, tile_rows)
        for columns in TILE_COLUMNS:
            waves = np.maximum(down * np.maximum(n / columns, 1.0) / units, 1.0)
            product_s = FLOP_PER_MULTIPLY_ADD * tile_rows * columns * k / unit_flop_per_s
            feed_s = (tile_rows + columns) * k * operand_bytes / feed_bytes_per_s
            tiled_s = np.minimum(tiled_s, waves * (np.maximum(product_s, feed_s) + tile_s))
    compute_s = bare_s + granularity * (tiled_s - bare_s)
    memory_s = moved_bytes / (memory_efficiency * bandwidth_bytes_per_s)
    return np.where(flop + moved_bytes > 0, smooth_maximum_of_two(compute_s, memory_s, sharpness), 0.0)
