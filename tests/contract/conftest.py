"""Scenarios that the tests of the command line run."""

from __future__ import annotations

from pathlib import Path

import pytest

TRAINING = """\
model: llama-3.1-70b
task: {kind: training, sequence_length: 8192, global_batch_size: 256}
system: dgx-h100
devices: 128
plan: {tensor_parallel: 8, pipeline_parallel: 4, zero_stage: 1, recompute: selective, sequence_parallel: true}
"""
DECODE = """\
model: llama-3.1-70b
task: {kind: decode, batch_size: 64, context_length: 4096}
system: dgx-h100
devices: 8
plan: {tensor_parallel: 8}
"""
GENERATION = """\
model: llama-3.1-8b
task: {kind: generation, batch_size: 8, prompt_length: 1000, output_length: 50}
system: dgx-a100-80gb
devices: 4
plan: {tensor_parallel: 4}
"""


@pytest.fixture
def training(tmp_path: Path) -> Path:
    path = tmp_path / "training.yaml"
    path.write_text(TRAINING)
    return path


@pytest.fixture
def decode(tmp_path: Path) -> Path:
    path = tmp_path / "decode.yaml"
    path.write_text(DECODE)
    return path


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    path = tmp_path / "generation.yaml"
    path.write_text(GENERATION)
    return path


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    """Six rows, of which two are illegal (24 tensor x pipeline ranks) and some do not fit."""
    path = tmp_path / "sweep.yaml"
    text = TRAINING.replace("tensor_parallel: 8", "tensor_parallel: [4, 8, 6]")
    path.write_text(text.replace("zero_stage: 1", "zero_stage: [0, 1]"))
    return path
