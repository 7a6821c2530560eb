"""Peak memory of one call as PyTorch's allocator counts it: what was there before and the most that came on top."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["held_bytes", "kept_bytes", "peak_bytes"]


def held_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the distinct storages behind tensors [byte]; raises nothing."""
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(sizes.values())


def _changes(call: Callable[[], Any]) -> tuple[Any, list[int]]:
    """What a call returns, and the bytes that it took and gave back, in time [byte]."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        made = call()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    return made, [int(e.nbytes()) for e in sorted(events, key=lambda e: e.start_ns())]


def kept_bytes(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and the bytes that it keeps, such as buckets of gradients [byte].

    Raises what the call raises.
    """
    made, changes = _changes(call)
    return made, sum(changes)


def peak_bytes(call: Callable[[], object], held: Iterable[Any], device: str) -> int | None:
    """Most bytes at once during one call.

    Parameters
    ----------
    call : callable
        The step.
    held : iterable of Tensor
        What lives before it: weights, optimizer states, inputs.
    device : str
        PyTorch device.

    Returns
    -------
    int or None
        Bytes that tensors asked for, without the library's own scratch; None where the device does not count [byte].

    Raises
    ------
    RuntimeError
        If the call fails.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated())
    if device != "cpu":
        return None
    before = held_bytes(held)
    now = most = 0
    for change in _changes(call)[1]:
        now += change
        most = max(most, now)
    return before + most
