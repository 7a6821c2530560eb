"""Rows of a device are found by what its tables' spellings mean."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from hardware_specs import SpecError
from simulator.fitting.devices import H100, of_device


def test_rows_of_all_spellings() -> None:
    frame = pd.DataFrame(
        {"device": ["h100_sxm", "a100_sxm", "NVIDIA H100 80GB HBM3", "h100_dgx", "A100", "A100", "abacus"]}
    )
    frame["source"] = ["", "", "", "", "llm_inference_bench", "trtllm_performance_md", ""]
    assert list(of_device(frame, "h100-sxm").index) == [0, 2, 3]
    assert list(of_device(frame, "H100").index) == [0, 2, 3]
    assert list(of_device(frame, "a100-sxm-40gb").index) == [4]
    assert list(of_device(frame, "a100-sxm-80gb").index) == [1, 5]
    assert of_device(frame, "t4").empty
    assert list(of_device(frame[["device"]].rename(columns={"device": "accelerator"}), "h100").index) == [
        0,
        2,
        3,
    ]


def test_a_name_that_no_table_has_is_refused() -> None:
    with pytest.raises(SpecError, match="did you mean h100-sxm"):
        of_device(pd.DataFrame({"device": ["h100_sxm"]}), "h100_sxn")
    with pytest.raises(SpecError, match="h100_sxn: is not a known device"):
        replace(H100, kernel_table="h100_sxn")
