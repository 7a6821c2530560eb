"""How long a dense or batched matrix product runs: tiles on units, bytes in memory, or both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.kernels.smooth_maximum import smooth_maximum_of_two
from simulator.rules import rule

__all__ = ["FILLED_LENGTH", "SPLITS", "TILES", "gemm_time"]

FloatArray = NDArray[np.float64]

FLOP_PER_MULTIPLY_ADD = 2.0
# Largest tiles of results (rows, columns), and parts along the inner length, that libraries choose from: the
# smallest time counts, as a tuned library picks it. More of either change errors by less than 0.1 percentage points.
TILES = ((128.0, 128.0), (64.0, 64.0))
SPLITS = (1.0, 4.0, 16.0)
INNER_STEP = 32.0  # the inner length is worked off in steps
FILLED_LENGTH = 8 * INNER_STEP  # a shorter product ends before the pipeline of loads is full
TILE_AREA = 128.0 * 128.0  # that `tile_s` belongs to
REREAD_ROWS = 128.0  # rows of tiles that read the second operand together
PARTIAL_BYTES = 8.0  # a partial result is written and read in 32 bits


class _Tile(NamedTuple):
    """A shape of tile on given products; the seconds are per step of the inner length, or per tile [s].

    ``full`` tiles have the full height, ``even`` ones that over which the rows are spread evenly.
    """

    waves: FloatArray  # tiles per unit without a split [1]
    full_step_s: FloatArray
    full_ends_s: FloatArray
    even_step_s: FloatArray
    even_ends_s: FloatArray

    def seconds(self, depth: FloatArray, splits: float, tail: FloatArray) -> FloatArray:
        """Time of all tiles of an inner length each [s]: at least one tile, and what the last unit lags behind."""
        one_s = depth * self.full_step_s + self.full_ends_s
        waves = self.waves * splits
        all_s = waves * (depth * self.even_step_s + self.even_ends_s)
        return np.maximum(one_s, all_s) + tail * np.minimum(waves, 1.0) * one_s


@rule(
    symbol="T",
    formula="[w > 0] t0 + tf min(k/256, 1) + min over splits s of "
    "((c + g (min over tiles a x c' of tiles(a, c', s) - c))^p + M^p)^(1/p) + [s > 1] g (ts + 8 s b m n/(beta f S)); "
    "c = F/(ec P), M = (B + q x)/(em W) + sqrt(r (B + q x)/W) + [m > 1] y b n k b'/W",
    unit="s",
    source="roofline of Williams, Waterman, Patterson, CACM 52(4), 2009, doi:10.1145/1498765.1498785, over the tiles "
    "of a library kernel with work spread over units: Osama et al., Stream-K, arXiv:2301.03598; panels: Goto and van "
    "de Geijn, ACM TOMS 34(3), 2008, doi:10.1145/1356052.1356053",
)
def gemm_time(
    *,
    batch: FloatArray,
    m: FloatArray,
    n: FloatArray,
    k: FloatArray,
    flop: FloatArray,
    moved_bytes: FloatArray,
    operand_bytes: FloatArray,
    second_operand_bytes: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    units: FloatArray,
    clock_hz: FloatArray,
    compute_efficiency: FloatArray,
    memory_efficiency: FloatArray,
    fixed_s: FloatArray,
    fill_s: FloatArray,
    sharpness: FloatArray,
    feed_bytes_per_clock: FloatArray,
    tile_s: FloatArray,
    split_s: FloatArray,
    tail: FloatArray,
    memory_ramp_s: FloatArray,
    rereads: FloatArray,
    resident_bytes: FloatArray,
    row_step: FloatArray,
    least_rows: FloatArray,
    granularity: FloatArray,
    panel_copies: FloatArray,
) -> FloatArray:
    r"""Time of ``batch`` products of an m x k by a k x n matrix on one device.

    .. math:: T = [F + B > 0]\, t_0 + t_f \min(k / 256, 1) + \min_s \left(\left(T_c^{\,p} + T_m^{\,p}\right)^{1/p}
              + [s > 1]\, g \left(t_s + \frac{8\, s\, b_a\, m\, n}{\beta f S}\right)\right), \quad
              T_c = c + g \left(\min_{a, c'} t_{a c' s} - c\right), \quad c = \frac{F}{e_c P}

    .. math:: t_{a c' s} = \max\left(u(a), N u(\bar a) / S\right) + \theta \min(N / S, 1)\, u(a), \quad
              u(h) = \max\left(\frac{2 h c' k_s}{e_c P / S}, \frac{(h b + c' b')\, k_s}{\beta f}\right)
              + \tau \frac{h c'}{128^2}

    .. math:: T_m = \frac{B'}{e_m W} + \sqrt{r B' / W} + [m > 1]\, y\, b_a n k b' / W, \quad
              B' = B + q\, b_a \left(\lceil m / 128 \rceil - 1\right) \max(n k b' - R, 0)

    Parameters
    ----------
    batch, m, n, k : ndarray, any shapes that broadcast
        :math:`b_a` products; rows and columns of a result, length of the inner products [1].
    flop, moved_bytes : ndarray
        :math:`F = 2 b_a m n k` [FLOP], and :math:`B`, each operand and each result counted once at its stored width
        [byte].
    operand_bytes, second_operand_bytes : ndarray
        :math:`b, b'` bytes per element of the m x k and the k x n operand as units take them in; the second is
        narrower where weights are widened inside the kernel [byte].
    peak_flop_per_s, bandwidth_bytes_per_s, units, clock_hz : ndarray
        :math:`P` [FLOP/s], :math:`W` [byte/s], :math:`S` compute units [1], :math:`f` [1/s].
    compute_efficiency, memory_efficiency, fixed_s, fill_s, sharpness : ndarray
        :math:`e_c, e_m` [1], :math:`t_0, t_f` [s], :math:`p \ge 1` [1].
    feed_bytes_per_clock, tile_s, split_s, tail : ndarray
        :math:`\beta` [byte], :math:`\tau` [s], :math:`t_s` [s], :math:`\theta` [1].
    memory_ramp_s, rereads, resident_bytes : ndarray
        :math:`r` [s], :math:`q` [1], :math:`R` [byte].
    row_step, least_rows, granularity, panel_copies : ndarray
        Step of tile heights, least height, :math:`g` and :math:`y` [1]. All are described in
        `hardware_specs.kernel_fits.gemm.GemmFit`.

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
    :math:`N` tiles are in flight, of width c' and height :math:`\bar a`: rows spread evenly over the least number
    of tiles of at most a rows, rounded up to the row step and to the least height;
    :math:`k_s = 32 \lceil k / 32 s \rceil`. Units take the next tile as they come, so there are no whole waves, but
    one tile of full height is the least; full height is what keeps the time from falling when one more row adds a
    tile. The result is at least ``max(F/P, B/W)``, never decreasing in sizes, never increasing in bandwidth, clock
    and peak, nor in units when the peak follows them.
    """
    unit_flop_per_s = compute_efficiency * peak_flop_per_s / units
    feed_bytes_per_s = feed_bytes_per_clock * clock_hz

    def step_s(height: FloatArray, columns: float) -> FloatArray:
        product_s = FLOP_PER_MULTIPLY_ADD * height * columns / unit_flop_per_s
        return np.maximum(
            product_s, (height * operand_bytes + columns * second_operand_bytes) / feed_bytes_per_s
        )

    tiles = []
    padded = np.maximum(row_step * np.ceil(m / row_step), least_rows)
    for most_rows, columns in TILES:
        down = np.maximum(np.ceil(m / most_rows), 1.0)
        full = np.minimum(padded, most_rows)
        even = np.maximum(row_step * np.ceil(m / (down * row_step)), least_rows)
        ends_s = tile_s * columns / TILE_AREA
        waves = batch * down * np.ceil(n / columns) / units
        tiles.append(_Tile(waves, step_s(full, columns), full * ends_s, step_s(even, columns), even * ends_s))
    bare_s = flop / (compute_efficiency * peak_flop_per_s)
    again = rereads * batch * (np.maximum(np.ceil(m / REREAD_ROWS), 1.0) - 1.0)
    stream_s = (
        moved_bytes + again * np.maximum(n * k * second_operand_bytes - resident_bytes, 0.0)
    ) / bandwidth_bytes_per_s
    memory_s = stream_s / memory_efficiency + np.sqrt(memory_ramp_s * stream_s)
    if np.any(panel_copies):
        # A single row multiplies the operand where it lies; for more a library copies it into panels first.
        panels = np.where(m > 1.0, panel_copies, 0.0) * batch * n * k * second_operand_bytes
        memory_s = memory_s + panels / bandwidth_bytes_per_s
    part_s = PARTIAL_BYTES * batch * m * n / (feed_bytes_per_s * units)
    best_s: FloatArray = np.full(1, np.inf)
    for splits in SPLITS:
        depth = INNER_STEP * np.ceil(k / (INNER_STEP * splits))
        tiled_s = np.minimum(*(tile.seconds(depth, splits, tail) for tile in tiles))
        seconds = smooth_maximum_of_two(bare_s + granularity * (tiled_s - bare_s), memory_s, sharpness)
        if splits > 1:
            seconds = seconds + granularity * (split_s + splits * part_s)
        best_s = np.minimum(best_s, seconds)
    start_s = fixed_s
    if np.any(fill_s):
        start_s = fixed_s + fill_s * np.minimum(k / FILLED_LENGTH, 1.0)
    return np.where(flop + moved_bytes > 0, start_s + best_s, 0.0)
