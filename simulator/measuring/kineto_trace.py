"""A PyTorch profiler (Kineto) trace as a table by operator: self times on the host, or times of kernels on a device."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, SpecError

__all__ = ["CLASSES", "TraceOperator", "class_of", "read_trace", "trace_operators"]

MICRO = 1e-6
HOST, KERNELS = "cpu_op", ("kernel", "gpu_memcpy", "gpu_memset")
STEP, OPTIMIZER, BACKWARD = "ProfilerStep#", "Optimizer.step", "autograd::engine::evaluate_function"
MAX_BYTES = 2_000_000_000
# Classes of operators that a trace and a simulated graph share, by the parts of ATen's names; the first that fits.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("adam", "sgd", "_foreach", "vector_norm", "linalg_norm"),
    "attention": ("scaled_dot_product", "flash_attention", "efficient_attention"),
    "collective": ("c10d", "nccl", "gloo", "all_reduce", "allreduce", "all_gather", "reduce_scatter"),
    "loss": ("log_softmax", "nll_loss", "cross_entropy"),
    "softmax": ("softmax",),
    "norm": ("layer_norm", "rms_norm", "group_norm"),
    "product": ("::mm", "addmm", "::bmm", "baddbmm", "matmul", "linear"),
    "activation": ("gelu", "silu", "relu", "sigmoid"),
    "embedding": ("embedding", "index_select", "gather"),
    "pointwise": (
        "add",
        "mul",
        "sub",
        "div",
        "pow",
        "copy",
        "fill",
        "cat",
        "neg",
        "sum",
        "mean",
        "zero",
        "dropout",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOperator:
    """An operator of a trace over all its calls.

    Attributes
    ----------
    name, phase, group : str
        ATen's name; forward, backward or optimizer; class as in ``CLASSES`` or "other".
    dims, dtype : str
        Shapes of its inputs and the type of the first, where they were recorded.
    calls : int
        In the whole trace [1].
    seconds : float
        Of all calls, without what they call [s].
    """

    name: str
    phase: str
    group: str
    dims: str
    dtype: str
    calls: int
    seconds: float


def _refuse(path: Path, rule: str, fix: str = "") -> SpecError:
    usual = "give what torch.profiler.profile(...).export_chrome_trace(FILE) wrote"
    return SpecError([Problem(path=str(path), value="", rule=rule, fix=fix or usual)])


def read_trace(path: Path) -> list[Mapping[str, Any]]:
    """Events of a trace.

    Parameters
    ----------
    path : Path
        A JSON file, or one that gzip packed.

    Returns
    -------
    list of mapping
        Complete events with a category.

    Raises
    ------
    SpecError
        If the file cannot be read, is no Chrome trace, or is one without operators of PyTorch.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise _refuse(path, "is larger than 2 GB", "profile fewer steps")
    try:
        raw = path.read_bytes()
        data = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except OSError as error:
        raise _refuse(path, f"cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError):
        raise _refuse(path, "is neither JSON nor packed JSON") from None
    events = data.get("traceEvents") if isinstance(data, dict) else data
    if not isinstance(events, list):
        raise _refuse(path, "is JSON of another format: it has no traceEvents")
    kept = [e for e in events if isinstance(e, dict) and e.get("ph") == "X" and "cat" in e and "dur" in e]
    if not any(event["cat"] == HOST for event in kept):
        rule = f"is a trace of another format: none of its {len(events)} events is an operator of PyTorch ({HOST})"
        raise _refuse(path, rule)
    return list(kept)


def class_of(name: str) -> str:
    """Class of an operator by its name, or "other"; raises nothing."""
    plain = name.lower()
    return next((c for c, parts in CLASSES.items() if any(part in plain for part in parts)), "other")


@dataclass(slots=True)
class _Frame:
    """An event of the host that is running, the phase it stands in, and the time of what it called."""

    event: Mapping[str, Any]
    end: float
    phase: str
    inner: float = 0.0


@dataclass(slots=True)
class _Sums:
    calls: dict[tuple[str, ...], int] = field(default_factory=dict)
    seconds: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, key: tuple[str, ...], microseconds: float, calls: int = 1) -> None:
        self.calls[key] = self.calls.get(key, 0) + calls
        self.seconds[key] = self.seconds.get(key, 0.0) + microseconds * MICRO


def _phase(name: str, outer: str) -> str:
    if OPTIMIZER in name:
        return "optimizer"
    return "backward" if BACKWARD in name or "Backward" in name else outer


def _shape_text(event: Mapping[str, Any]) -> tuple[str, str]:
    arguments = event.get("args", {})
    dims = [d for d in arguments.get("Input Dims", []) if d and not isinstance(d[0], list)]
    types = [str(t) for t in arguments.get("Input type", []) if t]
    text = " ".join("x".join(str(size) for size in d) for d in dims)
    return text, types[0] if types else ""


def _host(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str, float]]:
    """Events of the host with their phase and self time [us]: one thread after the other, in order of start."""
    by_thread: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
    for event in events:
        if event["cat"] in (HOST, "user_annotation"):
            by_thread.setdefault((event.get("pid"), event.get("tid")), []).append(event)
    for thread in by_thread.values():
        stack: list[_Frame] = []
        for event in sorted(thread, key=lambda e: (float(e["ts"]), -float(e["dur"]))):
            start, length = float(event["ts"]), float(event["dur"])
            while stack and stack[-1].end <= start:
                frame = stack.pop()
                yield frame.event, frame.phase, float(frame.event["dur"]) - frame.inner
            if stack:
                stack[-1].inner += length
            phase = _phase(str(event["name"]), stack[-1].phase if stack else "forward")
            stack.append(_Frame(event, start + length, phase))
        for frame in stack:
            yield frame.event, frame.phase, float(frame.event["dur"]) - frame.inner


def trace_operators(events: Sequence[Mapping[str, Any]]) -> tuple[list[TraceOperator], int]:
    """Operators of a trace, and its steps.

    Parameters
    ----------
    events : sequence of mapping
        From :func:`read_trace`.

    Returns
    -------
    tuple of list of TraceOperator and int
        The longest first: times of kernels where a device ran any, else self times on the host; steps that the
        profiler marked, at least 1. Raises nothing.
    """
    kernels: dict[Any, float] = {}
    for event in events:
        if event["cat"] in KERNELS:
            link = event.get("args", {}).get("External id")
            kernels[link] = kernels.get(link, 0.0) + float(event["dur"])
    sums, steps = _Sums(), 0
    for event, phase, own in _host(events):
        name = str(event["name"])
        steps += name.startswith(STEP)
        if event["cat"] != HOST or (BACKWARD in name and kernels):
            continue
        spent = kernels.get(event.get("args", {}).get("External id"), 0.0) if kernels else own
        if spent > 0:
            sums.add((name, phase, class_of(name), *_shape_text(event)), spent)
    found = [
        TraceOperator(
            name=key[0],
            phase="optimizer" if key[2] == "optimizer" else key[1],
            group=key[2],
            dims=key[3],
            dtype=key[4],
            calls=sums.calls[key],
            seconds=sums.seconds[key],
        )
        for key in sums.calls
    ]
    return sorted(found, key=lambda op: -op.seconds), max(steps, 1)
