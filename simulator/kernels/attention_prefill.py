"""How long fused attention of many queries runs: tiles of scores, spread over the units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.kernels.smooth_maximum import smooth_maximum
from simulator.rules import rule

FloatArray = NDArray[np.float64]
# Two products of one forward pass, each one multiply-add per score and width: passes are counted in these.
FORWARD_FLOP_PER_SCORE_AND_WIDTH = 4.0


@rule(
    symbol="T",
    formula="[F > 0] t0 + (Tc^p + (B/(em W))^p)^(1/p), Tc = b a/g (A cs + E cm/f)/S + sigma Mq L cs, "
    "cs = r (4 max(d, d0) S/(ec P) + c/f)",
    unit="s",
    source="Dao, arXiv:2307.08691, section 3.3 (tiles of queries over units, causal tiles), and Shah et al., "
    "arXiv:2407.08608, section 3.1 (softmax beside the products); with the makespan bound of list scheduling, "
    "Graham, SIAM J. Appl. Math. 17(2), 1969, doi:10.1137/0117039",
)
def prefill_attention_time(
    *,
    flop: FloatArray,
    moved_bytes: FloatArray,
    batch: FloatArray,
    query_length: FloatArray,
    kv_length: FloatArray,
    kv_span: FloatArray,
    heads: FloatArray,
    kv_heads: FloatArray,
    head_dim: FloatArray,
    pairs: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    units: FloatArray,
    clock_hz: FloatArray,
    compute_efficiency: FloatArray,
    memory_efficiency: FloatArray,
    fixed_s: FloatArray,
    sharpness: FloatArray,
    score_clocks: FloatArray,
    mask_clocks: FloatArray,
    imbalance: FloatArray,
    query_tile: FloatArray,
    kv_tile: FloatArray,
    packs_groups: FloatArray,
    least_width: FloatArray,
) -> FloatArray:
    r"""Time of one fused attention kernel, forward or backward, on one device.

    A unit takes a tile of :math:`M_q` query rows through the keys that they see, :math:`M_k` at a time.

    .. math:: s = r \left(\frac{4 \max(d, d_0) S}{e_c P} + \frac{c}{f}\right), \quad
              T_c = \frac{b a}{g S}\left(A s + E\, r \frac{c_m}{f}\right) + \sigma M_q L s

    with :math:`R = M_q \lceil q g / M_q \rceil` rows, :math:`L = M_k \lceil k_s / M_k \rceil` keys,
    :math:`Z = M_q q + R (M_k - 2)` scores in tiles on the edge of a mask,
    :math:`A = \min(R \Pi / q + Z / 2, R L)` scores computed, and :math:`E = \min(Z, R L)` where there is a mask,
    else 0. The first term of :math:`T_c` is the mean over the units, the second what they wait for the last tile.

    Parameters
    ----------
    flop, moved_bytes : ndarray, any shapes that broadcast
        :math:`F` operations [FLOP] and :math:`B` bytes read and written in memory [byte].
    batch, query_length, heads, kv_heads : ndarray
        :math:`b` sequences of :math:`q` queries, :math:`a` query heads and those of keys and values [1].
    kv_length, kv_span : ndarray
        :math:`k` keys, and :math:`k_s` of them that the last query attends to: all, or those in the window [1].
    head_dim : ndarray
        :math:`d`, width of a head [1]; the mean of both widths where keys and values differ.
    pairs : ndarray
        :math:`\Pi`, query-key pairs under the mask, one head and sequence [1].
    peak_flop_per_s, bandwidth_bytes_per_s : ndarray
        :math:`P` dense peak of the compute type [FLOP/s] and :math:`W` memory bandwidth [byte/s].
    units, clock_hz : ndarray
        :math:`S` units [1] and their clock :math:`f` [Hz].
    compute_efficiency, memory_efficiency : ndarray
        :math:`e_c, e_m` in (0, 1] [1].
    fixed_s, sharpness : ndarray
        :math:`t_0` [s] and the exponent :math:`p \ge 1` that joins computing and moving bytes [1].
    score_clocks, mask_clocks : ndarray
        :math:`c, c_m`, clocks of one unit per score, and more per score on the edge of the mask [1].
    imbalance : ndarray
        :math:`\sigma`, share of the longest tile that adds to the mean [1].
    query_tile, kv_tile : ndarray
        :math:`M_q, M_k` [1].
    packs_groups : ndarray
        1 where the query heads of a group fill a tile together (:math:`g = a /` key heads), else 0
        (:math:`g = 1`) [1].
    least_width : ndarray
        :math:`d_0`, width of a head below which its products take no less time: tiles are loaded and units started
        as for a wider one [1].

    Returns
    -------
    ndarray
        Seconds, broadcast shape. Zero work takes zero time.

    Raises
    ------
    FloatingPointError
        Never for legal input: the schema keeps peaks, clocks and efficiencies positive.

    Notes
    -----
    :math:`r = F / (4 b a \Pi d)` is 1 for the forward kernel and 2.5 for the backward one, which is taken to
    be of the same form. At least ``max(F/P, B/W)``, since :math:`A \ge g \Pi`. Time grows with every size; with
    key heads alone where they grow by a whole factor.
    """
    group = np.where(packs_groups > 0, np.maximum(heads / np.maximum(kv_heads, 1.0), 1.0), 1.0)
    rows = query_tile * np.ceil(query_length * group / query_tile)
    keys = kv_tile * np.ceil(kv_span / kv_tile)
    edge = query_tile * query_length + rows * (kv_tile - 2.0)
    scores = np.minimum(rows * pairs / np.maximum(query_length, 1.0) + edge / 2.0, rows * keys)
    masked = (query_length > 1) & (pairs < query_length * kv_length)
    on_edge = np.where(masked, np.minimum(edge, rows * keys), 0.0)
    forward_flop = FORWARD_FLOP_PER_SCORE_AND_WIDTH * batch * heads * pairs * head_dim
    passes = np.divide(flop, forward_flop, out=np.zeros_like(flop * forward_flop), where=forward_flop > 0)
    score_s = passes * (
        FORWARD_FLOP_PER_SCORE_AND_WIDTH
        * np.maximum(head_dim, least_width)
        * units
        / (compute_efficiency * peak_flop_per_s)
        + score_clocks / clock_hz
    )
    edge_s = passes * mask_clocks / clock_hz
    mean_s = batch * heads / group * (scores * score_s + on_edge * edge_s) / units
    last_s = imbalance * query_tile * keys * score_s
    memory_s = moved_bytes / (memory_efficiency * bandwidth_bytes_per_s)
    overlap = smooth_maximum(mean_s + last_s, memory_s, sharpness=sharpness)
    return np.where(overlap > 0, fixed_s + overlap, 0.0)
