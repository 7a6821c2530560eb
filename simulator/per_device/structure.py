"""The structural key of a partition: rows that share one graph of operators."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.compression import GraphRewrite
from workloads.decoder_graph import LayerStructure


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The key by which rows are partitioned: what decides which operators there are.

    Attributes
    ----------
    layer : LayerStructure
        Operators of a layer.
    quantised : bool
        Whether any row needs quantise passes.
    rewrites : tuple of callable
        Compression rewrites of the layer graph.
    """

    layer: LayerStructure
    quantised: bool = False
    rewrites: tuple[GraphRewrite, ...] = ()
