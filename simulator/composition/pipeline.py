"""How micro-batches flow through pipeline stages: the closed form of (interleaved) 1F1B, and the stages' sizes.

Stages differ: the first holds the embedding, the last the head, and where layers do not divide evenly the
extra ones go to stages in the middle first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

FloatArray = NDArray[np.float64]
UNSET: FloatArray = np.full(1, np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLayers:
    """Decoder layers by kind of stage [1]; a single stage is both first and last.

    ``middle`` is that of the fullest middle stages, of which there are ``n_fullest``; the other ``n_lighter``
    middle stages hold ``lighter`` layers.
    """

    first: FloatArray
    middle: FloatArray
    lighter: FloatArray
    last: FloatArray
    n_fullest: FloatArray
    n_lighter: FloatArray


def stage_layers(
    n_layers: FloatArray,
    pipeline_parallel: FloatArray,
    first_dense: FloatArray | float = 0.0,
    *,
    first_given: FloatArray = UNSET,
    last_given: FloatArray = UNSET,
) -> StageLayers:
    """Split ``n_layers`` over ``pipeline_parallel`` stages [1]: extra layers go to middle stages, then the first.

    ``first_given`` and ``last_given`` are the layers of the first and of the last stage where the plan says so, NaN
    elsewhere [1]. Broadcasts; raises nothing. Sums to ``n_layers`` over all stages, less ``first_dense`` [1] of the
    first stage that are counted with the embedding.
    """
    single = pipeline_parallel == 1
    n_middle = np.maximum(pipeline_parallel - 2.0, 0.0)
    if not (np.any(first_given == first_given) or np.any(last_given == last_given)):
        base = np.floor(n_layers / pipeline_parallel)
        extra = n_layers - base * pipeline_parallel
        first, last = base + (extra > n_middle), base
    else:
        by_hand = (~np.isnan(first_given)) * 1.0, (~np.isnan(last_given)) * 1.0
        first, last = np.nan_to_num(first_given), np.nan_to_num(last_given)
        open_stages = np.maximum(pipeline_parallel - by_hand[0] - by_hand[1], 1.0)
        left = np.maximum(n_layers - first - last, 0.0)
        base = np.floor(left / open_stages)
        extra = left - base * open_stages
        first = np.where(by_hand[0] > 0, first, base + (extra > n_middle))
        last = np.where(by_hand[1] > 0, last, base)
    n_fullest = np.where(extra > 0, np.minimum(extra, n_middle), n_middle)
    return StageLayers(
        first=np.where(single, n_layers, first) - first_dense,
        middle=np.where(n_middle > 0, base + (extra > 0), 0.0),
        lighter=base,
        last=np.where(single, n_layers - first_dense, last),
        n_fullest=n_fullest,
        n_lighter=n_middle - n_fullest,
    )


@rule(
    symbol="T",
    formula="m max(t_i) + sum(c_i) - min(c_i + m (max(t) - t_i))",
    unit="s",
    source="Narayanan et al., arXiv:2104.04473, section 2.2 (uniform stages: m t + (p - 1) t / v); the longest path: a "
    "stage is as busy as can be, and the first and the last micro-batch pass one chunk of each other one",
)
def pipeline_time(
    *,
    slowest_stage_s: FloatArray,
    micro_batches: FloatArray,
    sum_of_chunks_s: FloatArray,
    least_rest_s: FloatArray,
) -> FloatArray:
    """Time of one step through the pipeline without point-to-point transfers.

    Parameters
    ----------
    slowest_stage_s : ndarray
        Forward plus backward of one micro-batch on the slowest stage [s].
    micro_batches : ndarray
        Per replica [1].
    sum_of_chunks_s : ndarray
        Forward plus backward of one micro-batch through one chunk of each stage, the outermost one of the ends [s].
    least_rest_s : ndarray
        Least of all stages: one chunk, and how much less than the slowest the stage has to do in all [s].

    Returns
    -------
    ndarray
        Seconds, broadcast shape.

    Raises
    ------
    ValueError
        If shapes do not broadcast.

    Notes
    -----
    The largest, over the stages, of all that one has to do and of one chunk of each other one. Equal to an event replay
    for uniform stages. A largest one of sums that grow with every stage, it grows with every stage too.
    """
    return micro_batches * slowest_stage_s + (sum_of_chunks_s - least_rest_s)


@rule(
    symbol="Tp2p",
    formula="[p > 1] w (fill + (1 - o) v (m - 1) max(t))",
    unit="s",
    source="each micro-batch crosses a boundary w ways (2: forward and backward), v times when interleaved "
    "(Narayanan et al., arXiv:2104.04473, section 2.2); o = 1 hides what is not fill or drain",
)
def exposed_p2p(
    *,
    fill_s: FloatArray,
    slowest_s: FloatArray,
    pipeline_parallel: FloatArray,
    virtual_pipeline: FloatArray,
    micro_batches: FloatArray,
    overlap: FloatArray,
    ways: float,
) -> FloatArray:
    """Time that point-to-point transfers add to a step [s].

    ``fill_s`` is one transfer over every boundary, ``slowest_s`` over the slowest one [s]; the others are counts
    and a 0/1 switch [1]; zero for one stage; raises nothing. Fill and drain cross every boundary once each way,
    the steady state runs at the pace of the slowest.
    """
    steady = (1.0 - overlap) * virtual_pipeline * np.maximum(micro_batches - 1.0, 0.0)
    return np.where(pipeline_parallel > 1, ways * (fill_s + steady * slowest_s), 0.0)


@rule(
    symbol="T",
    formula="max(sum(t_i), m max(t_i))",
    unit="s",
    source="a token can only follow its predecessor through all stages, and no stage serves two micro-batches at "
    "once (Pope et al., arXiv:2211.05102, section 3.2)",
)
def decode_period(
    *, sum_of_stages_s: FloatArray, slowest_stage_s: FloatArray, micro_batches: FloatArray
) -> FloatArray:
    """Time between two tokens of a sequence while decoding goes on without a break [s]; raises nothing."""
    return np.maximum(sum_of_stages_s, micro_batches * slowest_stage_s)
