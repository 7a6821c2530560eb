"""Model FLOP and the two utilisations: of the model's own operations, and of those that were executed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.arrays.columns import ModelColumns
from simulator.rules import rule

FloatArray = NDArray[np.float64]

FLOP_PER_PARAMETER_AND_TOKEN = 2.0
# Scores and weighted sum, 2 FLOP each per head element and attended token.
ATTENTION_FLOP_FACTOR = 4.0
TRAINING_PASSES = 3.0


@rule(
    symbol="F/token",
    formula="2 N + 4 L a d s",
    unit="FLOP",
    source="Narayanan et al., arXiv:2104.04473, appendix; Chowdhery et al., arXiv:2204.02311, appendix B; "
    "N counts parameters that are multiplied (the embedding lookup is not), attention is counted in full",
)
def forward_flop_per_token(
    *,
    multiplied_parameters: FloatArray,
    n_layers: FloatArray,
    heads: FloatArray,
    head_dim: FloatArray,
    attended_tokens: FloatArray,
) -> FloatArray:
    """Model FLOP of one token's forward pass [FLOP]; counts [1] broadcast; raises nothing."""
    return (
        FLOP_PER_PARAMETER_AND_TOKEN * multiplied_parameters
        + ATTENTION_FLOP_FACTOR * n_layers * heads * head_dim * attended_tokens
    )


@rule(
    symbol="r",
    formula="all: 1 (layers); core: 4 L a d s",
    unit="FLOP",
    source="Korthikanti et al., arXiv:2205.05198, section 5: what is computed again adds to hardware FLOP",
)
def recomputed_flop_per_token(
    *,
    layer_parameters: FloatArray,
    n_layers: FloatArray,
    heads: FloatArray,
    head_dim: FloatArray,
    attended_tokens: FloatArray,
    recompute_core: FloatArray,
    recompute_all: FloatArray,
) -> FloatArray:
    """FLOP computed a second time per token [FLOP]; 0/1 switches; raises nothing."""
    core = ATTENTION_FLOP_FACTOR * n_layers * heads * head_dim * attended_tokens
    return recompute_core * core + recompute_all * FLOP_PER_PARAMETER_AND_TOKEN * layer_parameters * n_layers


def multiplied_parameters(model: ModelColumns, layer: FloatArray, head: FloatArray) -> FloatArray:
    """Parameters that take part in products: all layers and the output head, embeddings excluded [1]."""
    return model.n_layers * layer + head


@rule(
    symbol="MFU",
    formula="F / (T D P)",
    unit="1",
    source="Chowdhery et al., arXiv:2204.02311, section 4.1; P is the dense peak of the matmul type",
)
def flop_utilisation(
    *, flop: FloatArray, seconds: FloatArray, devices: FloatArray, peak_flop_per_s: FloatArray
) -> FloatArray:
    """FLOP of a step over what all devices could do in its time [1]; raises nothing for positive inputs."""
    return flop / (seconds * devices * peak_flop_per_s)
