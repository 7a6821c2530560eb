"""Fit the coefficients of a tier's collective algorithms to measured collectives, through the engine's own forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware_specs import AlgorithmFit
from simulator.arrays.columns import AlgorithmColumns, FabricColumns, TierColumns
from simulator.communication.collectives import exchange
from simulator.communication.direct_messages import all_to_all, stage_message
from simulator.communication.placement import TOPOLOGIES, place
from simulator.fitting.error_lines import ErrorLine
from simulator.fitting.measured_collectives import CollectiveRows
from simulator.fitting.robust_fit import Free, robust_fit, significant, spread_90
from simulator.fitting.rows import FloatArray
from simulator.fitting.samples import MIN_CLASS_ROWS, stack_common

__all__ = [
    "Fits",
    "MeasuredFabric",
    "collective_error_lines",
    "collective_errors",
    "collective_spread",
    "fit_algorithms",
    "predict_collectives",
]

Fits = dict[str, AlgorithmFit]
COEFFICIENTS = (
    "efficiency",
    "bridge_efficiency",
    "base_latency_s",
    "step_latency_s",
    "ramp",
    "own_chunk",
)
IDEAL = {
    "efficiency": 1.0,
    "bridge_efficiency": 1.0,
    "base_latency_s": 0.0,
    "step_latency_s": 0.0,
    "ramp": 0.0,
    "own_chunk": 0.0,
}
FREE = {
    "efficiency": Free(name="efficiency", start=(0.8,), lower=0.05, upper=1.0),
    "bridge_efficiency": Free(name="bridge_efficiency", start=(0.5,), lower=0.02, upper=1.0),
    "base_latency_s": Free(name="base_latency_s", start=(5e-6,), lower=0.0, upper=100e-6, scale=1e-6),
    "step_latency_s": Free(name="step_latency_s", start=(0.8e-6,), lower=0.0, upper=30e-6, scale=1e-6),
    "ramp": Free(name="ramp", start=(1.2,), lower=0.0, upper=5.0),
    "own_chunk": Free(name="own_chunk", start=(0.3,), lower=0.0, upper=2.0),
}
# Where the search starts, for algorithms that would lose every row to another one from the common start.
START = {
    "in_switch.efficiency": 0.7,
    "in_switch.step_latency_s": 10e-6,
    "one_shot.efficiency": 0.6,
    "one_shot.base_latency_s": 4e-6,
    "one_shot.step_latency_s": 0.1e-6,
    "two_shot.base_latency_s": 9e-6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredFabric:
    """Datasheet figures of the node that was measured: topology, one rank's links, bridges, in-switch reduction.

    Bandwidths are one way [byte/s]; ``bridge`` accelerators share a host bridge [1].
    """

    topology: str
    link_bytes_per_s: float
    accelerators_per_node: float = 8.0
    in_switch: bool = False
    bridge: float = 1.0
    bridge_bytes_per_s: float = np.inf


def _columns(fit: AlgorithmFit | Mapping[str, float]) -> AlgorithmColumns:
    numbers = {**IDEAL, **(fit.coefficients() if isinstance(fit, AlgorithmFit) else fit)}
    return AlgorithmColumns(offered=np.ones(1), **{name: np.array([numbers[name]]) for name in COEFFICIENTS})


def _fabric(fabric: MeasuredFabric, fits: Mapping[str, AlgorithmFit | Mapping[str, float]]) -> FabricColumns:
    one = np.ones(1)
    tier = TierColumns(
        topology=np.array([float(TOPOLOGIES.index(fabric.topology))]),
        link_bytes_per_s=np.array([fabric.link_bytes_per_s]),
        links=one,
        in_switch=np.array([float(fabric.in_switch)]),
        axis_0=one,
        axis_1=one,
        axis_2=one,
        wrap=one,
        block=one,
        oversubscription=one,
        bridge=np.array([fabric.bridge]),
        bridge_bytes_per_s=np.array([fabric.bridge_bytes_per_s]),
        compute_share=np.zeros(1),
        j_per_byte=np.zeros(1),
        algorithms={name: _columns(fit) for name, fit in fits.items()},
    )
    node = np.array([fabric.accelerators_per_node])
    return FabricColumns(accelerators_per_node=node, max_devices=node, inner=tier, outer=tier)


def predict_collectives(
    rows: CollectiveRows,
    fabric: MeasuredFabric,
    fits: Mapping[str, AlgorithmFit | Mapping[str, float]],
) -> FloatArray:
    """Seconds of each row inside one node, by the engine's own choice of algorithm; shape ``(rows,)`` [s].

    Raises KeyError for an operation that is none of the engine's.
    """
    columns = _fabric(fabric, {"direct": {}, **fits} if "direct" not in fits else fits)
    group = place(rows.n_ranks, np.ones(1), np.full(1, fabric.accelerators_per_node), columns)
    predicted = np.zeros(len(rows))
    for operation in np.unique(rows.operation):
        if operation == "all_to_all":
            seconds = all_to_all(rows.message_bytes, group, columns).seconds
        elif operation == "send_recv":
            seconds = stage_message(rows.message_bytes, np.ones(1), np.full(1, 2.0), columns).inside_s
        else:
            seconds = exchange(str(operation), rows.message_bytes, group, columns).seconds
        predicted = np.where(rows.operation == operation, seconds, predicted)
    return predicted


def fit_algorithms(
    rows: CollectiveRows,
    fabric: MeasuredFabric,
    free: Mapping[str, Sequence[str]],
    *,
    source: str,
    known: Mapping[str, AlgorithmFit | Mapping[str, float]] | None = None,
    linked: Mapping[str, Mapping[str, str]] | None = None,
    slowness: float = 1.0,
) -> Fits:
    """Fit coefficients of some algorithms together.

    Parameters
    ----------
    rows : CollectiveRows
        All are fitted; errors of left-out rows come from a second fit that does not see them.
    fabric : MeasuredFabric
        What was measured.
    free : mapping of str to sequence of str
        By algorithm, the coefficients to find; the others are ideal (full bandwidth, no latency) or ``known``.
    source : str
        Written beside the coefficients.
    known : mapping, optional
        Coefficients of algorithms that stay as they are, or of some of a free algorithm's.
    linked : mapping, optional
        By algorithm and coefficient, the algorithm whose fitted coefficient it shares.
    slowness : float
        Over the latencies of GPU libraries that the search is bounded by, those that are possible here [1].

    Returns
    -------
    dict of str to AlgorithmFit
        The free algorithms, with errors by size class.

    Raises
    ------
    ValueError
        If no row is left to fit.
    ModuleNotFoundError
        Without scipy (the ``calibrate`` extra).

    Notes
    -----
    Soft-L1 loss over log ratios, each operation, rank count and size class with the same weight.
    """
    if not len(rows):
        raise ValueError(f"no rows to fit for {source}")
    kept = dict(known or {})

    def numbers(values: Mapping[str, float]) -> dict[str, AlgorithmFit | Mapping[str, float]]:
        out: dict[str, AlgorithmFit | Mapping[str, float]] = dict(kept)
        for algorithm, names in free.items():
            base = kept.get(algorithm, {})
            start = base.coefficients() if isinstance(base, AlgorithmFit) else base
            out[algorithm] = {**IDEAL, **start, **{n: values[f"{algorithm}.{n}"] for n in names}}
        for algorithm, links in (linked or {}).items():
            shared = {name: values[f"{other}.{name}"] for name, other in links.items()}
            out[algorithm] = {**dict(out[algorithm]), **shared}
        return out

    def fitted(seen: CollectiveRows) -> dict[str, float]:
        return robust_fit(
            lambda values: predict_collectives(seen, fabric, numbers(values)),
            seen.measured_s,
            seen.cell_weights,
            [_free(algorithm, n, slowness) for algorithm, names in free.items() for n in names],
        )

    values = fitted(rows)
    blind = numbers(fitted(rows.where(~rows.left_out)))
    shown = numbers(values)
    errors = collective_errors(rows, predict_collectives(rows, fabric, shown))
    held = rows.where(rows.left_out)
    unseen = collective_errors(held, predict_collectives(held, fabric, blind))
    error = {**errors, **{f"{name}_left_out": value for name, value in unseen.items()}}
    spread = collective_spread(held, predict_collectives(held, fabric, blind))
    common = stack_common(np.log(predict_collectives(rows, fabric, shown) / rows.measured_s), rows.stack)
    return {
        algorithm: AlgorithmFit.of(
            {name: significant(v) for name, v in dict(shown[algorithm]).items()},
            basis="measured",
            source=source,
            rows=len(rows),
            error=error,
            spread=spread,
            common=common,
        )
        for algorithm in free
    }


def _free(algorithm: str, name: str, slowness: float) -> Free:
    key, usual = f"{algorithm}.{name}", FREE[name]
    upper = usual.upper * (slowness if name.endswith("_s") else 1.0)
    return replace(usual, name=key, upper=upper, start=(START[key],) if key in START else usual.start)


def collective_errors(rows: CollectiveRows, predicted_s: FloatArray) -> dict[str, float]:
    """Mean absolute relative error by size class [1]."""
    off = np.abs(predicted_s / rows.measured_s - 1)
    return {
        str(c): significant(float(np.mean(off[rows.size_class == c]))) for c in np.unique(rows.size_class)
    }


def collective_spread(rows: CollectiveRows, predicted_s: FloatArray) -> dict[str, float]:
    """90 % quantile of the log ratio, overall and by size class with enough rows [1]; raises nothing."""
    spread = {"all": spread_90(predicted_s, rows.measured_s)} if len(rows) else {}
    for name in np.unique(rows.size_class):
        here = rows.size_class == name
        if here.sum() >= MIN_CLASS_ROWS:
            spread[str(name)] = spread_90(predicted_s[here], rows.measured_s[here])
    return spread


def collective_error_lines(rows: CollectiveRows, predicted_s: FloatArray) -> list[ErrorLine]:
    """Errors by operation and rank count, and by size class."""
    ratio = predicted_s / rows.measured_s
    names = np.array(
        [f"{o} n={int(n)}" for o, n in zip(rows.operation, rows.n_ranks, strict=True)], dtype=np.str_
    )
    lines = []
    for stack in np.unique(names):
        for size_class in np.unique(rows.size_class):
            keep = (names == stack) & (rows.size_class == size_class)
            if keep.any():
                lines.append(
                    ErrorLine(
                        stack=str(stack),
                        size_class=str(size_class),
                        left_out=False,
                        rows=int(keep.sum()),
                        mape=float(np.mean(np.abs(ratio[keep] - 1))),
                        bias=float(np.expm1(np.mean(np.log(ratio[keep])))),
                    )
                )
    return lines
