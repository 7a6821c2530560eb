"""How long a scan over a sequence runs: state-space layers and linear attention, chunk by chunk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

FloatArray = NDArray[np.float64]

FLOP_PER_MULTIPLY_ADD = 2.0


@rule(
    symbol="F",
    formula="2 b s a (q (n g / a + p) / 2 + 2 n p) + 2 b s a n p / q; one token: 2 b a 2 n p",
    unit="FLOP",
    source="Dao and Gu, arXiv:2405.21060, section 6 (blocks of the semiseparable matrix): products inside causal "
    "chunks of q tokens, states of chunks, and from states to outputs",
)
def scan_flop(
    *,
    batch: FloatArray,
    tokens: FloatArray,
    heads: FloatArray,
    head_dim: FloatArray,
    state: FloatArray,
    groups: FloatArray,
    chunk: FloatArray,
) -> FloatArray:
    """FLOP of one scan [FLOP]: ``heads`` of ``head_dim`` channels with ``state`` values each, inputs shared by
    ``groups``, in chunks of ``chunk`` tokens; sizes [1] broadcast; raises nothing.

    Half of the products inside a chunk is masked. A chunk is no longer than the sequence.
    """
    inside = np.minimum(chunk, tokens)
    scores = inside * (state * groups + head_dim * heads) / 2.0
    through_states = 2.0 * state * head_dim * heads
    passed = state * head_dim * heads / np.maximum(inside, 1.0)
    each = np.where(tokens > 1, scores + through_states + passed, through_states)
    return FLOP_PER_MULTIPLY_ADD * batch * tokens * each


@rule(
    symbol="T",
    formula="[w > 0] (t0 + t1 (ceil(s / q) - 1)) + max(F / (ec P), B / (em W))",
    unit="s",
    source="roofline with a fixed cost; chunks compute beside each other and their states pass one after the other "
    "(Dao and Gu, arXiv:2405.21060, section 6; Gu and Dao, arXiv:2312.00752, section 3.3.2). Not measured here",
)
def scan_time(
    *,
    tokens: FloatArray,
    chunk: FloatArray,
    flop: FloatArray,
    moved_bytes: FloatArray,
    peak_flop_per_s: FloatArray,
    bandwidth_bytes_per_s: FloatArray,
    compute_efficiency: FloatArray,
    memory_efficiency: FloatArray,
    fixed_s: FloatArray,
    step_s: FloatArray,
) -> FloatArray:
    r"""Time of a scan on one device.

    .. math:: T = [w > 0] \left(t_0 + t_1 (\lceil s / q \rceil - 1)\right) + \max(F / (e_c P),\; B / (e_m W))

    Parameters
    ----------
    tokens, chunk : ndarray, any shapes that broadcast
        :math:`s` tokens of a sequence and :math:`q` of a chunk [1].
    flop, moved_bytes : ndarray
        :math:`F` [FLOP] and :math:`B`, inputs, outputs and the states of chunks [byte].
    peak_flop_per_s, bandwidth_bytes_per_s : ndarray
        :math:`P` [FLOP/s] and :math:`W` [byte/s].
    compute_efficiency, memory_efficiency : ndarray
        :math:`e_c, e_m` in (0, 1] [1].
    fixed_s, step_s : ndarray
        :math:`t_0` of all kernels of the scan, :math:`t_1` for which a chunk waits for the state before it [s].

    Returns
    -------
    ndarray
        Seconds, broadcast shape. Zero work takes zero time; at least ``max(F / P, B / W)``.

    Raises
    ------
    FloatingPointError
        Never for legal input: the schema keeps peaks, bandwidths and efficiencies positive.

    Notes
    -----
    No kernel of this kind is in the measured tables. `hardware_specs.kernel_fits.scan.ScanFit.of_siblings` states
    what stands in: efficiency of prefill attention, bandwidth and launch of streaming kernels, evidence assumed.
    """
    busy_s = np.maximum(
        flop / (compute_efficiency * peak_flop_per_s),
        moved_bytes / (memory_efficiency * bandwidth_bytes_per_s),
    )
    waits = np.maximum(np.ceil(tokens / np.maximum(chunk, 1.0)) - 1.0, 0.0)
    return np.where(busy_s > 0, fixed_s + step_s * waits + busy_s, 0.0)
