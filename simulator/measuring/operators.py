"""One measured operator as a call: operands of its shape, and cold weights where a model's would be cold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

import torch
from torch.nn import functional

__all__ = ["Bench", "TORCH_TYPES"]

TORCH_TYPES: Mapping[str, Any] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
MOST_VIEWS = 64
TABLE_ROWS = 16384  # of the embedding that rows are looked up in
ADAM: Mapping[str, Any] = {
    "lr": 1e-4,
    "beta1": 0.9,
    "beta2": 0.95,
    "weight_decay": 0.1,
    "eps": 1e-8,
    "amsgrad": False,
    "maximize": False,
}
Call = Callable[[], object]
# Timed with fresh results, as eager code makes them.
ELEMENTWISE: Mapping[str, Callable[[Any, Any], Call]] = {
    "add": lambda x, y: lambda: x + y,
    "mul": lambda x, y: lambda: x * y,
    "copy": lambda x, y: lambda: x.clone(),
    "gelu": lambda x, y: lambda: functional.gelu(x),
    "silu": lambda x, y: lambda: functional.silu(x),
    "softmax": lambda x, y: lambda: functional.softmax(x, dim=-1),
    "ln": lambda x, y: lambda: functional.layer_norm(x, (x.shape[1],), y[0]),
    "rms_norm": lambda x, y: lambda: functional.rms_norm(x, (x.shape[1],), y[0]),
}


class Bench:
    """Makes calls out of rows of shapes.

    Parameters
    ----------
    device : str
        PyTorch device.
    cold_bytes : float
        Memory that weights, caches and parameters are taken from in turn: several times the last cache [byte].
    """

    def __init__(self, device: str, cold_bytes: float) -> None:
        self.device = device
        self._pool = torch.empty(int(cold_bytes) // 4, dtype=torch.float32, device=device)
        # Above zero: the squares of Adam are taken from here too.
        self._pool.uniform_(0.001, 0.05)

    def _random(self, *shape: int, dtype: str) -> Any:
        return torch.empty(shape, dtype=TORCH_TYPES[dtype], device=self.device).uniform_(-1, 1)

    def _cold(self, *shape: int, dtype: str, each: int = 1) -> Any:
        """Endless tuples of ``each`` tensors that lie one behind the other in the pool."""
        kind = TORCH_TYPES[dtype]
        pool = self._pool.view(kind) if kind != torch.float32 else self._pool
        size = 1
        for extent in shape:
            size *= extent
        if size * each > pool.numel():
            pool = torch.empty(size * each, dtype=kind, device=self.device).uniform_(0.001, 0.05)
        count = min(max(pool.numel() // (size * each), 1), MOST_VIEWS)
        stride = pool.numel() // count
        return cycle(
            [
                tuple(
                    pool[place * stride + part * size : place * stride + (part + 1) * size].view(shape)
                    for part in range(each)
                )
                for place in range(count)
            ]
        )

    def product(self, shape: Mapping[str, Any]) -> Call:
        """x W^T with another cold W each time; RuntimeError if memory runs out."""
        m, n, k = (int(shape[name]) for name in ("m", "n", "k"))
        # Tokens of a layer have an axis of sequences before them, and the views that it takes cost host time.
        x, weights = self._random(1, m, k, dtype=shape["dtype"]), self._cold(n, k, dtype=shape["dtype"])
        return lambda: functional.linear(x, next(weights)[0])

    def attention(self, shape: Mapping[str, Any]) -> Call:
        """Causal attention as a layer calls it: with the views that part heads, and in decode the new token's write.

        Caches are cold: another one each time. RuntimeError if memory runs out.
        """
        batch, queries, keys, heads, kv_heads, width = (
            int(shape[name]) for name in ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")
        )
        grouped = {"enable_gqa": True} if kv_heads != heads else {}
        query = self._random(batch, queries, heads * width, dtype=shape["dtype"])
        key, value = (
            self._random(batch, keys if queries > 1 else 1, kv_heads * width, dtype=shape["dtype"])
            for _ in range(2)
        )

        def parted(x: Any) -> Any:
            return x.view(x.shape[0], x.shape[1], -1, width).transpose(1, 2)

        def joined(context: Any) -> object:
            return context.transpose(1, 2).reshape(batch, queries, heads * width)

        if queries > 1:
            return lambda: joined(
                functional.scaled_dot_product_attention(
                    parted(query), parted(key), parted(value), is_causal=True, **grouped
                )
            )
        caches = self._cold(batch, kv_heads, keys, width, dtype=shape["dtype"], each=2)

        def against_cache() -> object:
            cached_keys, cached_values = next(caches)
            cached_keys[:, :, keys - 1 : keys] = parted(key)
            cached_values[:, :, keys - 1 : keys] = parted(value)
            seen = cached_keys[:, :, :keys], cached_values[:, :, :keys]
            return joined(functional.scaled_dot_product_attention(parted(query), *seen, **grouped))

        return against_cache

    def elementwise(self, shape: Mapping[str, Any]) -> Call:
        """An operator that only moves memory; KeyError for one that is not known."""
        op, rows, columns, dtype = str(shape["op"]), int(shape["rows"]), int(shape["cols"]), shape["dtype"]
        if op == "embedding":
            table = self._random(TABLE_ROWS, columns, dtype=dtype)
            ids = torch.randint(0, TABLE_ROWS, (rows,), device=self.device)
            return lambda: functional.embedding(ids, table)
        if op == "cross_entropy":
            logits = self._random(rows, columns, dtype=dtype)
            targets = torch.randint(0, columns, (rows,), device=self.device)
            return lambda: functional.cross_entropy(logits, targets)
        if op in ("adamw", "grad_norm", "clip"):
            return self._parameters(op, rows, columns, dtype)
        return ELEMENTWISE[op](*(self._random(rows, columns, dtype=dtype) for _ in range(2)))

    def _parameters(self, op: str, rows: int, columns: int, dtype: str) -> Call:
        """The parts of an optimizer step on one matrix after the other, as wide as a model has them."""
        if op == "adamw":
            groups = self._cold(rows, columns, dtype="fp32", each=4)
            steps = [torch.ones((), dtype=torch.float32, device=self.device)]

            def update() -> object:
                weight, gradient, mean, square = next(groups)
                return torch._fused_adamw_([weight], [gradient], [mean], [square], [], steps, **ADAM)

            return update
        tensors = self._cold(rows, columns, dtype=dtype)
        if op == "grad_norm":
            return lambda: torch.linalg.vector_norm(next(tensors)[0])
        factor = torch.ones((), dtype=TORCH_TYPES[dtype], device=self.device)
        return lambda: next(tensors)[0].mul_(factor)
