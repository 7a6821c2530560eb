"""Coefficients of fused attention: prompts against themselves, and single tokens against a cache."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from hardware_specs.figure import Dimension
from hardware_specs.kernel_fits.evidence import FitEvidence

__all__ = ["DecodeAttentionFit", "PrefillAttentionFit"]

Efficiency = Annotated[float, Dimension("fraction", positive=True)]
Fraction = Annotated[float, Dimension("fraction")]
Seconds = Annotated[float, Dimension("s", bare=True)]
Count = Annotated[float, Dimension("count")]
AtLeastOne = Annotated[float, Dimension("count", minimum=1)]


class PrefillAttentionFit(FitEvidence):
    """Coefficients of fused attention of many queries, see ``simulator/kernels/attention_prefill.py``."""

    compute_efficiency: Efficiency = Field(description="sustained share of the dense peak, (0, 1]")
    memory_efficiency: Efficiency = Field(description="sustained share of the memory bandwidth, (0, 1]")
    fixed_s: Seconds = Field(description="fixed time of one kernel [s]")
    sharpness: AtLeastOne = Field(
        description="exponent p of the p-norm that joins compute and memory time; large: the maximum"
    )
    score_clocks: Count = Field(
        description="clocks of one unit that each score costs beside its products (softmax)"
    )
    mask_clocks: Count = Field(description="further clocks of each score in a tile on the edge of the mask")
    imbalance: Count = Field(description="share of the longest tile that the units wait for at the end")
    query_tile: AtLeastOne = Field(description="rows of queries that a unit works on at once")
    kv_tile: AtLeastOne = Field(description="keys that a unit works on at once")
    packs_groups: Fraction = Field(
        description="1 where the query heads that share keys fill a tile together, else 0"
    )
    least_width: AtLeastOne = Field(
        default=1.0, description="width of a head below which its products take no less time"
    )

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """Only the pairs that the mask leaves, at the full peak, spread evenly over the units."""
        return {
            "compute_efficiency": 1.0,
            "memory_efficiency": 1.0,
            "fixed_s": 0.0,
            "sharpness": math.inf,
            "score_clocks": 0.0,
            "mask_clocks": 0.0,
            "imbalance": 0.0,
            "query_tile": 1.0,
            "kv_tile": 1.0,
            "packs_groups": 0.0,
            "least_width": 1.0,
        }


class DecodeAttentionFit(FitEvidence):
    """Coefficients of attention against a cache, see ``simulator/kernels/attention_decode.py``."""

    compute_efficiency: Efficiency = Field(description="sustained share of the dense peak, (0, 1]")
    memory_efficiency: Efficiency = Field(description="sustained share of the memory bandwidth, (0, 1]")
    fixed_s: Seconds = Field(description="fixed time of one call [s]")
    sharpness: AtLeastOne = Field(
        description="exponent p of the p-norm that joins the units' time with memory and compute time"
    )
    stream_fraction: Efficiency = Field(
        description="share of the memory bandwidth that one unit can stream, (0, 1]"
    )
    task_s: Seconds = Field(
        description="time of one task (a sequence, a head or group, a split) on a unit [s]"
    )
    row_tile_s: Seconds = Field(
        default=0.0, description="time that each 16 rows of a group of query heads add to a task [s]"
    )
    split_s: Seconds = Field(default=0.0, description="time added where the cache of a sequence is split [s]")
    split_step_s: Seconds = Field(default=0.0, description="time added by each split [s]")
    sequence_s: Seconds = Field(default=0.0, description="time added by each sequence: scheduling [s]")
    regroup_s: Seconds = Field(
        default=0.0,
        description="time of copying queries and outputs where neither sequences nor groups stand alone [s]",
    )
    kv_tile: AtLeastOne = Field(description="cached tokens that a unit works on at once")
    group_limit: AtLeastOne = Field(
        default=1e9, description="query heads per key head up to which they share one reading of the cache"
    )
    split_limit: AtLeastOne = Field(default=128.0, description="most parts that a cache is split into")

    @classmethod
    def ideal(cls) -> dict[str, float]:
        """The longer of reading the cache once at the full bandwidth and of its products at the full peak."""
        return {
            "compute_efficiency": 1.0,
            "memory_efficiency": 1.0,
            "fixed_s": 0.0,
            "sharpness": math.inf,
            "stream_fraction": math.inf,
            "task_s": 0.0,
            "row_tile_s": 0.0,
            "split_s": 0.0,
            "split_step_s": 0.0,
            "sequence_s": 0.0,
            "regroup_s": 0.0,
            "kv_tile": 1.0,
            "group_limit": 1e9,
            "split_limit": 128.0,
        }
