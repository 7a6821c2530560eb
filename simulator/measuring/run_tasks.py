"""Which whole runs are measured: small decoders of four sizes, lengths, batches, phases, and how they are spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["PHASES", "SIZES", "DecoderSize", "RunTask", "run_tasks"]

PHASES = ("prefill", "train", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSize:
    """Shape of a decoder: pre-norm layers with an MLP of two matrices, learned positions, an untied head. [1]"""

    n_layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int


# 7, 17, 42 and 110 million parameters.
SIZES: tuple[DecoderSize, ...] = (
    DecoderSize(n_layers=4, hidden=256, heads=4, ffn=1024, vocab=8192),
    DecoderSize(n_layers=6, hidden=384, heads=6, ffn=1536, vocab=8192),
    DecoderSize(n_layers=8, hidden=512, heads=8, ffn=2048, vocab=16384),
    DecoderSize(n_layers=12, hidden=768, heads=12, ffn=3072, vocab=16384),
)
# Sequence and batch of prompts and training steps; context and batch of decode steps.
SPANS, CONTEXTS = ((128, 1), (128, 8), (512, 1)), ((256, 1), (128, 8))
QUICK_SPANS, QUICK_CONTEXTS = ((128, 1), (256, 2)), ((128, 4),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTask:
    """One run.

    Attributes
    ----------
    size : DecoderSize
        The model.
    phase, mode, strategy : str
        prefill, train or decode; eager or compile; single, ddp or fsdp.
    dtype : str
        Type of weights and activations.
    seq_len, batch : int
        Tokens of a sequence (decode: those cached before the step), and sequences over all processes [1].
    processes : int
        Ranks [1].
    """

    size: DecoderSize
    phase: str
    mode: str
    strategy: str
    dtype: str
    seq_len: int
    batch: int
    processes: int = 1

    @property
    def id(self) -> str:
        """A name that says everything; raises nothing."""
        s = self.size
        shape = f"l{s.n_layers}h{s.hidden}a{s.heads}f{s.ffn}v{s.vocab}"
        ranks = f"-{self.strategy}{self.processes}" if self.strategy != "single" else ""
        return f"{self.phase}/{self.mode}/{self.dtype}/{shape}/s{self.seq_len}b{self.batch}{ranks}"

    def columns(self) -> dict[str, Any]:
        """The columns of the table that say which run it is; raises nothing."""
        data = asdict(self)
        return {"id": self.id, **{name: data[name] for name in data if name != "size"}, **data["size"]}


def _small(quick: bool) -> Sequence[DecoderSize]:
    return SIZES[:2] if quick else SIZES


def run_tasks(
    dtypes: Sequence[str], modes: Sequence[str], *, quick: bool, processes: int, strategies: Sequence[str]
) -> Iterator[RunTask]:
    """All runs.

    Parameters
    ----------
    dtypes, modes, strategies : sequence of str
        Types; eager, compile; ddp, fsdp (with several processes).
    quick : bool
        Two small sizes and fewer spans.
    processes : int
        With several, training steps over all of them [1].

    Yields
    ------
    RunTask
        Small models first. Raises nothing.
    """
    spans, contexts = (QUICK_SPANS, QUICK_CONTEXTS) if quick else (SPANS, CONTEXTS)
    for dtype in dtypes:
        for mode in modes:
            for size in _small(quick):
                if processes > 1:
                    for strategy in strategies:
                        for seq_len, batch in spans:
                            yield RunTask(
                                size=size,
                                phase="train",
                                mode=mode,
                                strategy=strategy,
                                dtype=dtype,
                                seq_len=seq_len,
                                batch=batch * processes,
                                processes=processes,
                            )
                    continue
                for phase in PHASES:
                    for seq_len, batch in contexts if phase == "decode" else spans:
                        yield RunTask(
                            size=size,
                            phase=phase,
                            mode=mode,
                            strategy="single",
                            dtype=dtype,
                            seq_len=seq_len,
                            batch=batch,
                        )
