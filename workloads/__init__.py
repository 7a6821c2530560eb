"""What models compute: the model catalog, operators, layer graphs and their rewrites.

Knows shapes only: no bytes, no FLOP, no hardware. Names are loaded on first use, so that listing models does not
wait for numpy and networkx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.backward_pass import BACKWARD_RULES, backward, backward_rule
    from workloads.catalog import lint_model, list_models, load_model, model_hash
    from workloads.compression import COMPRESSIONS
    from workloads.decoder_graph import LayerSizes, LayerStructure, decoder_layer
    from workloads.embedding_and_head import embedding, head
    from workloads.model_spec import ModelSpec
    from workloads.operator_graph import Dim, Extent, Graph, Operator, Tensor, operators
    from workloads.optimizer_graph import optimizer_step
    from workloads.parameter_counts import parameters

__all__ = [
    "BACKWARD_RULES",
    "COMPRESSIONS",
    "Dim",
    "Extent",
    "Graph",
    "LayerSizes",
    "LayerStructure",
    "ModelSpec",
    "Operator",
    "Tensor",
    "backward",
    "backward_rule",
    "decoder_layer",
    "embedding",
    "head",
    "lint_model",
    "list_models",
    "load_model",
    "model_hash",
    "operators",
    "optimizer_step",
    "parameters",
]

_HOMES = {
    "backward_pass": ("BACKWARD_RULES", "backward", "backward_rule"),
    "catalog": ("lint_model", "list_models", "load_model", "model_hash"),
    "compression": ("COMPRESSIONS",),
    "decoder_graph": ("LayerSizes", "LayerStructure", "decoder_layer"),
    "embedding_and_head": ("embedding", "head"),
    "model_spec": ("ModelSpec",),
    "operator_graph": ("Dim", "Extent", "Graph", "Operator", "Tensor", "operators"),
    "optimizer_graph": ("optimizer_step",),
    "parameter_counts": ("parameters",),
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            value = getattr(import_module(f"workloads.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'workloads' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
