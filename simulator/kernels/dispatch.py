"""What the host adds to a kernel: on a device whose own cores dispatch it, or where it waits for each kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.rules import rule

FloatArray = NDArray[np.float64]


@rule(
    symbol="T",
    formula="Tk + [Tk > 0] h",
    unit="s",
    source="measured by llmsim measure: a chain of tiny operators, each behind a stream through the private cache, "
    "less the same operators and the stream alone; or fitted to runs of a stack whose launches block",
)
def dispatched_time(*, kernel_s: FloatArray, between_s: FloatArray) -> FloatArray:
    r"""Time of an operator that the host's own time is added to: :math:`T = T_k + [T_k > 0]\, h`.

    Parameters
    ----------
    kernel_s : ndarray
        :math:`T_k` of the kernel as it is timed alone [s].
    between_s : ndarray
        :math:`h`, time of the host between two operators; 0 where a queue or a graph hides it [s].

    Returns
    -------
    ndarray
        Seconds, broadcast shape. Zero work takes zero time.

    Raises
    ------
    ValueError
        If the shapes do not broadcast.
    """
    return np.where(kernel_s > 0, kernel_s + between_s, 0.0)
