"""How many plans per second other tools evaluate, on this machine: those that a package index has.

``pip install --no-deps llm-analysis fire termcolor six`` in an environment of its own, then run this file with its
Python: ``python benchmarks/peers.py``. It prints plans per second of the processor, one line of JSON. The plans are
those of GPT-3 175B (here OPT-175B, whose shapes are the same) on 512 A100 over tensor, pipeline, micro-batch,
recompute and ZeRO. Calculon and SimuMax are not on a package index: their figures can only be cited.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import time
from typing import Any

DEVICES, BATCH = 512, 1536


def llm_analysis_plans(seconds: float) -> dict[str, Any]:
    """Plans per second of llm-analysis; ModuleNotFoundError where it is not installed."""
    from llm_analysis.analysis import ActivationRecomputation, DSZeRO, LLMAnalysis
    from llm_analysis.config import (
        ParallelismConfig,
        get_dtype_config_by_name,
        get_gpu_config_by_name,
        get_model_config_by_name,
    )

    logging.disable(logging.CRITICAL)
    model = get_model_config_by_name("facebook_opt-175b")
    gpu = get_gpu_config_by_name("a100-sxm-80gb")
    dtype = get_dtype_config_by_name("w16a16e16")
    axes = itertools.product(
        (1, 2, 4, 8), (1, 2, 4, 8, 16), (1, 2, 4, 8), list(ActivationRecomputation), list(DSZeRO)
    )
    done = refused = 0
    start, processor = time.perf_counter(), time.process_time()
    for tensor, pipeline, micro, recompute, zero in itertools.cycle(axes):
        if time.perf_counter() - start > seconds:
            break
        try:
            plan = ParallelismConfig(tp_size=tensor, pp_size=pipeline, dp_size=DEVICES // tensor // pipeline)
            LLMAnalysis(model, gpu, dtype, plan).training(
                batch_size_per_gpu=micro,
                global_batch_size=BATCH,
                seq_len=2048,
                activation_recomputation=recompute,
                ds_zero=zero,
            )
            done += 1
        except (AssertionError, ValueError, ZeroDivisionError):
            refused += 1
    spent = time.process_time() - processor
    return {"tool": "llm-analysis", "plans": done, "refused": refused, "plans_per_cpu_s": done / spent}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure other tools.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long")
    options = parser.parse_args(arguments)
    try:
        found = llm_analysis_plans(options.seconds)
    except ModuleNotFoundError as error:
        sys.stdout.write(json.dumps({"tool": "llm-analysis", "missing": str(error.name)}) + "\n")
        return 0
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
