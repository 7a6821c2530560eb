"""How long attention against a cache runs: tasks that stream it, split until the units are busy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.kernels.smooth_maximum import smooth_maximum
from simulator.rules import rule

FloatArray = NDArray[np.float64]
# Parts that the cache of a sequence may be split into, besides staying whole: the quickest is taken.
SPLITS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
ROW_TILE = 16.0  # rows of the smallest matrix instruction: a group of query heads is padded to it
TASK_ROWS = 64.0  # rows of one task; a larger group is several tasks, each as long as a full one


@rule(
    symbol="T",
    formula="[F > 0] t0 + tq b + tr [b > 1][n > 1][a > n] + (min_s(max(1, N/S) u + [s > 1] (t1 + t2 s))^p + "
    "(B/(em W))^p + (F/(ec P))^p)^(1/p), N = b n s, u = tt + t16 ceil(g/16) + (L/s bt + bq)/(x W), g at most 64",
    unit="s",
    source="Dao, Haziza, Massa, Sizov, Flash-Decoding, 2023, pytorch.org/blog/flash-decoding (the cache split over "
    "units, then combined); Ainslie et al., arXiv:2305.13245 (a group of query heads reads its keys once)",
)
def decode_attention_time(
    *,
    flop: FloatArray,
    moved_bytes: FloatArray,
    batch: FloatArray,
    kv_length: FloatArray,
    heads: FloatArray,
    kv_heads: FloatArray,
    token_bytes: FloatArray,
    query_bytes: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    units: FloatArray,
    compute_efficiency: FloatArray,
    memory_efficiency: FloatArray,
    fixed_s: FloatArray,
    sharpness: FloatArray,
    stream_fraction: FloatArray,
    task_s: FloatArray,
    row_tile_s: FloatArray,
    split_s: FloatArray,
    split_step_s: FloatArray,
    sequence_s: FloatArray,
    regroup_s: FloatArray,
    kv_tile: FloatArray,
    group_limit: FloatArray,
    split_limit: FloatArray,
) -> FloatArray:
    r"""Time of attention of one token per sequence against its cache, on one device.

    A task streams the cached tokens of one sequence and key head, or a part of them, through one unit, at
    most at :math:`x W`. Either the query heads of a group share a task, or each has its own; and the cache
    may be split in 1 to 128 parts. What is quickest is taken:

    .. math:: u = t_t + t_{16} \lceil g / 16 \rceil + \frac{L_s\, b_t + b_q}{x W}, \quad
              T_u = \min_s \left[ \max\left(1, \tfrac{N}{S}\right) u + [s > 1] (t_1 + t_2 s) \right]

    with :math:`L_s = M_k \lceil k / (M_k s) \rceil` tokens, :math:`N` tasks (one per 64 query heads of a
    group, :math:`g` of them in each). :math:`T` is the fixed times and
    the p-norm of :math:`T_u, B / (e_m W)` and :math:`F / (e_c P)`.

    Parameters
    ----------
    flop, moved_bytes : ndarray, any shapes that broadcast
        :math:`F` operations [FLOP] and :math:`B` bytes moved in memory [byte].
    batch, kv_length, heads, kv_heads : ndarray
        :math:`b` sequences, :math:`k` cached tokens that each attends to, :math:`a` query and :math:`n` key
        heads [1].
    token_bytes : ndarray
        :math:`b_t`, keys and values of one token and key head [byte].
    query_bytes : ndarray
        Query and output of one token and query head [byte]; :math:`b_q` is that of a group.
    peak_flop_per_s, bandwidth_bytes_per_s, units : ndarray
        :math:`P` dense peak [FLOP/s], :math:`W` memory bandwidth [byte/s], :math:`S` units [1].
    compute_efficiency, memory_efficiency : ndarray
        :math:`e_c, e_m` in (0, 1] [1].
    fixed_s, sharpness : ndarray
        :math:`t_0` [s], and the exponent :math:`p \ge 1` [1].
    stream_fraction : ndarray
        :math:`x`, share of the memory bandwidth that one unit can stream [1].
    task_s, row_tile_s : ndarray
        :math:`t_t`, one task; :math:`t_{16}`, each 16 rows of a group of more than one query head [s].
    split_s, split_step_s : ndarray
        :math:`t_1, t_2`, combining parts: once, and for each [s].
    sequence_s, regroup_s : ndarray
        :math:`t_q`, each sequence; :math:`t_r`, copies where there are several sequences of several groups [s].
    kv_tile : ndarray
        :math:`M_k`, tokens that a task works on at once [1].
    group_limit, split_limit : ndarray
        Query heads per key head above which each has a task of its own, and most parts of a cache [1].

    Returns
    -------
    ndarray
        Seconds, broadcast shape. Zero work takes zero time.

    Raises
    ------
    FloatingPointError
        Never for legal input: the schema keeps peaks and efficiencies positive.

    Notes
    -----
    At least ``max(F/P, B/W)``. Time never falls when a size grows. Key heads at a fixed number of query heads
    are the exception: each is a task of its own, and more of them occupy more units; over ``group_limit``, and
    with ``regroup_s``, stacks change kernels.
    """
    group = np.maximum(heads / np.maximum(kv_heads, 1.0), 1.0)
    unit_bytes_per_s = stream_fraction * bandwidth_bytes_per_s
    stream_bytes = (token_bytes / unit_bytes_per_s, query_bytes / unit_bytes_per_s)
    combine = (split_s, split_step_s, split_limit)
    alone = _units_time(batch * heads, np.ones(1), task_s, kv_length, kv_tile, units, stream_bytes, combine)
    task_of_group = task_s + row_tile_s * np.ceil(np.minimum(group, TASK_ROWS) / ROW_TILE) * (group > 1)
    shared = _units_time(
        batch * kv_heads, group, task_of_group, kv_length, kv_tile, units, stream_bytes, combine
    )
    units_s = np.where(group > group_limit, alone, np.minimum(shared, alone))
    memory_s = moved_bytes / (memory_efficiency * bandwidth_bytes_per_s)
    compute_s = flop / (compute_efficiency * peak_flop_per_s)
    overlap = smooth_maximum(units_s, memory_s, compute_s, sharpness=sharpness)
    copied = (batch > 1) & (kv_heads > 1) & (group > 1)
    works = flop + moved_bytes > 0
    return np.where(works, fixed_s + sequence_s * batch + regroup_s * copied + overlap, 0.0)


def _units_time(
    groups: FloatArray,
    group: FloatArray,
    task_s: FloatArray,
    kv_length: FloatArray,
    kv_tile: FloatArray,
    units: FloatArray,
    stream_s: tuple[FloatArray, FloatArray],
    combine: tuple[FloatArray, FloatArray, FloatArray],
) -> FloatArray:
    """Seconds until ``groups`` groups of query heads have streamed their cache, under the quickest split.

    ``stream_s`` is the time that a unit takes for one cached token and for one query head [s], ``combine``
    that of combining parts, once and for each [s], and how many there may be [1].
    """
    per_token_s, per_query_s = stream_s
    tasks = groups * np.ceil(group / TASK_ROWS)
    tiles = np.ceil(kv_length / kv_tile)
    start_s = task_s + np.minimum(group, TASK_ROWS) * per_query_s
    tile_s = kv_tile * per_token_s
    rounds = tasks / units
    best = np.maximum(1.0, rounds) * (start_s + tiles * tile_s)
    for splits in SPLITS:
        # What depends on few axes is put together first.
        combined_s = np.where(splits <= combine[2], combine[0] + combine[1] * splits, np.inf)
        part_s = start_s + np.ceil(tiles / splits) * tile_s
        best = np.minimum(best, np.maximum(1.0, rounds * np.minimum(splits, tiles)) * part_s + combined_s)
    return best
