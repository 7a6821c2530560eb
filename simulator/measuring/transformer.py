"""The decoder that is measured: the operators of the simulated layer, one PyTorch call for each."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from simulator.measuring.run_tasks import DecoderSize

__all__ = ["Decoder", "empty_caches"]


class Layer(nn.Module):
    """Pre-norm attention and MLP; queries, keys and values are three products."""

    def __init__(self, size: DecoderSize) -> None:
        super().__init__()
        h, f = size.hidden, size.ffn
        self.heads, self.width = size.heads, h // size.heads
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(h, bias=False) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(h, h, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(h, f, bias=False), nn.Linear(f, h, bias=False)

    def _heads(self, x: Any) -> Any:
        return x.view(x.shape[0], x.shape[1], self.heads, self.width).transpose(1, 2)

    def forward(self, x: Any, cache: Any = None, position: int = 0) -> Any:
        """Output of the layer.

        A prompt (position 0) leaves its keys and values in the list that it is given; behind a prompt ``cache`` is that
        pair, with a place for one more token.
        """
        normed = self.attention_norm(x)
        query, key, value = (self._heads(made(normed)) for made in (self.query, self.key, self.value))
        if cache is None or not position:
            if cache is not None:
                cache.append((key, value))
            context = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            keys, values = cache
            keys[:, :, position : position + 1] = key
            values[:, :, position : position + 1] = value
            seen = position + 1
            context = functional.scaled_dot_product_attention(query, keys[:, :, :seen], values[:, :, :seen])
        x = x + self.out(context.transpose(1, 2).reshape(x.shape))
        return x + self.down(functional.gelu(self.up(self.mlp_norm(x))))


class Decoder(nn.Module):
    """Embedding, learned positions, layers, norm and head."""

    def __init__(self, size: DecoderSize, positions: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocab, size.hidden)
        self.positions = nn.Embedding(positions, size.hidden)
        self.layers = nn.ModuleList([Layer(size) for _ in range(size.n_layers)])
        self.norm = nn.LayerNorm(size.hidden, bias=False)
        self.head = nn.Linear(size.hidden, size.vocab, bias=False)

    def forward(self, tokens: Any, caches: Any = None, position: int = 0) -> Any:
        """Logits of every token given, of shape (batch, tokens, vocab); caches as the layers take them."""
        places = self.positions.weight[position : position + tokens.shape[1]]
        x = self.embedding(tokens) + places
        for number, layer in enumerate(self.layers):
            x = layer(x) if caches is None else layer(x, caches[number], position)
        return self.head(self.norm(x))


def empty_caches(size: DecoderSize, batch: int, length: int, dtype: Any, device: str) -> list[Any]:
    """Keys and values of every layer for ``length`` tokens; RuntimeError if memory runs out."""
    shape = (batch, size.heads, length, size.hidden // size.heads)
    return [
        tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)) for _ in range(size.n_layers)
    ]
