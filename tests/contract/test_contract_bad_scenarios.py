"""Each mistake in a scenario ends in one clear message and exit status 2; all mistakes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

# Setting, then what the one message must hold: the key, the value, the rule and the way out.
ONE_MISTAKE = [
    (
        "plan.data_parallel=8",
        ["plan = 8 tensor x 4 pipeline x 8 data", "multiply to 256", "128 devices", "data_parallel to 4"],
    ),
    (
        "task.global_batch_size=255",
        ["task.global_batch_size = 255", "multiple of data_parallel 4", "252 or 256"],
    ),
    ("plan.micro_batch_size=3", ["task.global_batch_size = 256", "micro_batch_size 3 = 12", "252 or 264"]),
    ("model=lama-3.1-70b", ["model = lama-3.1-70b", "llama-3.1-70b"]),
    ("system=dgx-h1000", ["system = dgx-h1000", "did you mean dgx-h100"]),
    ("plan.tensor_paralel=4", ["plan.tensor_paralel = 4", "not a key", "did you mean tensor_parallel"]),
    ("plan.foo=4", ["plan.foo = 4", "known keys", "tensor_parallel"]),
    ("tasks=4", ["tasks = 4", "did you mean task"]),
    ("task.prompt_length=3", ["task.prompt_length = 3", "not a key"]),
    ("task.kind=train", ["task.kind = train", "training, prefill, decode, generation"]),
    ("model.n_layer=40", ["model.n_layer = 40", "n_layers"]),
    ("model.hidden=8191", ["model.hidden = 8191", "multiple of model.heads", "8192"]),
    ("model.kv_heads=3", ["model.kv_heads = 3", "divide the 64 heads"]),
    ("plan.precision=bf61", ["plan.precision = bf61", "not a known precision", "bf16"]),
    ("plan.precision={weights: bf61}", ["plan.precision.weights = bf61", "not a known type", "bf16"]),
    ("plan.precision={wights: bf16}", ["plan.precision.wights", "weights"]),
    ("plan.precision=3", ["plan.precision = 3", "name of a recipe, or a mapping"]),
    ("plan.precision=w4a16", ["plan.precision = w4a16", "inference only", "bf16"]),
    ("plan.compression=[{name: layer-drop}]", ["plan.compression[0].name = layer-drop", "layer_drop"]),
    ("plan.compression=[{name: layer_drop, fraction: 1}]", ["plan.compression[0].fraction = 1", "below 1"]),
    (
        "plan.compression=[layer_drop]",
        ["plan.compression[0] = layer_drop", "must be a mapping", "{name: layer_drop}"],
    ),
    ("plan.compression=3", ["plan.compression = 3", "must be a list"]),
    ("system.accelerator.memory_bandwidth=3.35 TBB/s", ["3.35 TBB/s", "unknown unit", "TB/s"]),
    ("system.accelerator.memory_bandwidth=3.35", ["= 3.35", "without a unit", "3.35 TB/s"]),
    ("system.accelerator.memory_bandwidth=80 GB", ["80 GB", "bytes_per_s is due"]),
    ("system.accelerator.memory_bandwidth=-1x", ["-1x", "above 0"]),
    ("system.accelerator.memory_bandwidth=-2 TB/s", ["-2 TB/s", "must not be negative"]),
    ("system.accelerator.memory_bandwidth=0 TB/s", ["0.0 B/s", "above 0"]),
    ("system.accelerator.memory_bandwidth=nan TB/s", ["nan TB/s"]),
    ("system.accelerator.memory_bandwidth=inf TB/s", ["inf TB/s"]),
    ("system.accelerator.memory_bandwidth=1e400 TB/s", ["1e400 TB/s", "finite"]),
    ("system.accelerator.memory_bandwidht=1.5x", ["system.accelerator.memory_bandwidht", "memory_bandwidth"]),
    (
        "system.accelerator.peak.fp8=1.5x",
        ["system.accelerator.peak.fp8 = 1.5x", "does not state", "give a value"],
    ),
    ("plan.tensor_parallel=-4", ["plan.tensor_parallel = -4", "at least 1"]),
    ("plan.tensor_parallel=0", ["plan.tensor_parallel = 0", "at least 1"]),
    ("plan.tensor_parallel=true", ["plan.tensor_parallel = true", "whole number"]),
    ("plan.tensor_parallel=4.0", ["plan.tensor_parallel = 4.0", "whole number"]),
    ('plan.tensor_parallel="4"', ['plan.tensor_parallel = "4"', "whole number"]),
    ("plan.tensor_parallel=", ["plan.tensor_parallel = null", "whole number"]),
    ("plan.tensor_parallel=.inf", ["plan.tensor_parallel = inf", "whole number"]),
    ("plan.tensor_parallel=.nan", ["plan.tensor_parallel = nan", "whole number"]),
    ("plan.tensor_parallel=1e400", ["plan.tensor_parallel = inf", "whole number"]),
    ("plan.sequence_parallel=1", ["plan.sequence_parallel = 1", "true or false"]),
    ("plan.sequence_parallel=yes", ["plan.sequence_parallel = yes", "true or false"]),
    ("plan.zero_stage=4", ["plan.zero_stage = 4", "at most 3"]),
    ("plan.recompute=some", ["plan.recompute = some", "selective"]),
    ("fidelity=exact", ["fidelity = exact", "calibrated"]),
    ("devices=0", ["devices = 0", "at least 1"]),
    ("devices=10000000000", ["devices = 10000000000", "at most 1,000,000,000"]),
    ("plan=3", ["plan = 3", "must be a mapping"]),
    ("task=3", ["task = 3", "must be a mapping"]),
    ("model=3", ["model = 3", "catalog name, a path, or a mapping"]),
    ("system=[]", ["system = []", "at least one value"]),
    ("plan.context_parallel=8", ["degrees must multiply to", "8 context", "product is one of"]),
    ("plan.context_parallel_kind=star", ["plan.context_parallel_kind = star", "ulysses"]),
    ("plan.expert_parallel=2", ["plan.expert_parallel = 2", "no experts"]),
    ("where=devices > 200", ["where = devices > 200", "leaves this scenario out"]),
    ("plan.tensor_parallel=[4, 8]", ["plan.tensor_parallel", "2 values", "llmsim sweep"]),
    ("plan.tensor_parallel.x=3", ["plan.tensor_parallel.x = 3", "not a mapping"]),
    ("plan.placement=tensor", ["plan.placement = tensor: must name each of tensor, context"]),
    ("system.scale_up.topology=ring", ["in_switch_reduction", "ring"]),
]


@pytest.mark.parametrize(("setting", "parts"), ONE_MISTAKE, ids=[s for s, _ in ONE_MISTAKE])
def test_one_mistake_is_one_message(llmsim, training: Path, setting: str, parts: list[str]) -> None:
    found = llmsim("run", training, "--set", setting)
    assert found.status == 2
    assert found.out == ""
    assert len(found.messages) == 1, found.err
    for part in parts:
        assert part in found.err


@pytest.mark.parametrize("setting", ["plan.tensor_parallel", "=3", ".plan=3", "plan.=3", "plan..x=3", ""])
def test_a_setting_is_key_and_value(llmsim, training: Path, setting: str) -> None:
    found = llmsim("run", training, "--set", setting)
    assert found.status == 2
    assert "must be KEY=VALUE; write such as --set plan.tensor_parallel=4" in found.err


def test_a_value_that_is_no_yaml(llmsim, training: Path) -> None:
    found = llmsim("run", training, "--set", "plan.tensor_parallel=[", "--set", "devices={")
    assert found.status == 2
    assert [line.split(":")[0] for line in found.messages] == ["--set plan.tensor_parallel", "--set devices"]


def test_tensor_ranks_and_kv_heads(llmsim, training: Path) -> None:
    """8 key-value heads: 16 ranks replicate them; 5 and 12 are neither divisors nor multiples."""
    assert llmsim("run", training, "--set", "plan.tensor_parallel=16").status == 0
    found = llmsim(
        "run",
        training,
        "--set",
        "plan.tensor_parallel=12",
        "--set",
        "devices=96",
        "--set",
        "plan.data_parallel=2",
    )
    assert found.status == 2
    assert (
        "plan.tensor_parallel = 12: must divide the 8 key-value heads, or be a multiple of them" in found.err
    )
    assert "use 1, 2, 4, 8 or a multiple of 8" in found.err


def test_degrees_that_do_not_divide_say_so_once(llmsim, training: Path) -> None:
    """Neither the batch nor the micro-batch is blamed for a number of replicas that is not whole."""
    found = llmsim("run", training, "--set", "plan.pipeline_parallel=5")
    assert found.status == 2
    assert len(found.messages) == 1
    assert "8 tensor x 5 pipeline" in found.err
    assert "40 does not divide them" in found.err


def test_layers_and_stages(llmsim, training: Path) -> None:
    settings = ["--set", "plan.pipeline_parallel=3", "--set", "devices=96"]
    found = llmsim("run", training, *settings)
    assert found.status == 2
    assert len(found.messages) == 1
    assert "plan.pipeline_parallel = 3" in found.err
    assert "must divide the 80 layers" in found.err
    assert "uneven_stages" in found.err
    uneven = llmsim("run", training, *settings, "--set", "plan.uneven_stages=true", "--format", "json")
    assert uneven.status == 0
    assert any("uneven stages" in note for note in uneven.json()["notes"])


def test_all_mistakes_of_a_file_at_once(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text(
        "model: lama\n"
        "task: {kind: training, sequence_length: -3, global_batch_size: 1.5, batch: 3}\n"
        "system: dgx\n"
        "devices: true\n"
        "plan: {tensor_parallel: 0, zero_stage: 9, precision: bf61, compression: [{name: prune}]}\n"
        "system.accelerator.clock: 3 GB\n"
        "where: ['devices <', 'plan.foo > 3']\n"
        "typo: 1\n"
    )
    found = llmsim("run", path)
    assert found.status == 2
    subjects = [line.split(" = ")[0].split(":")[0] for line in found.messages]
    assert sorted(subjects) == sorted(
        [
            "model", "system", "devices", "typo", "where", "where",
            "task.sequence_length", "task.global_batch_size", "task.batch",
            "plan.tensor_parallel", "plan.zero_stage", "plan.precision", "plan.compression[0].name",
            "system.accelerator.clock",
        ]
    )  # fmt: skip


def test_all_broken_rules_at_once(llmsim, training: Path) -> None:
    found = llmsim(
        "run",
        training,
        "--set",
        "plan.tensor_parallel=7",
        "--set",
        "devices=124",
        "--set",
        "plan.pipeline_parallel=9",
    )
    assert found.status == 2
    for part in (
        "multiply to",
        "64 attention heads",
        "8 key-value heads",
        "80 layers",
        "part of one node or whole nodes",
    ):
        assert part in found.err


def test_missing_keys_say_what_they_are(llmsim, tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("model: gpt3-175b\ntask: {kind: decode, batch_size: 3}\n")
    found = llmsim("run", path)
    assert found.status == 2
    assert len(found.messages) == 3
    assert "task.context_length: is missing; add it: tokens cached before the step [token]" in found.err
    assert "devices: is missing" in found.err
    assert "system: is missing" in found.err


def test_a_compute_type_without_units(llmsim, training: Path) -> None:
    a100 = ["--set", "system=dgx-a100-80gb", "--set", "plan.precision=fp8"]
    found = llmsim("run", training, *a100)
    assert found.status == 2
    assert "plan.precision = fp8: a100-sxm-80gb has no units for fp8; use a type it has (bf16," in found.err
    assert "plan.fallback: allow" in found.err
    allowed = llmsim("run", training, *a100, "--set", "plan.fallback=allow", "--format", "json")
    assert allowed.status == 0
    assert any("has no units for fp8" in note for note in allowed.json()["notes"])


def test_training_options_in_inference(llmsim, decode: Path) -> None:
    found = llmsim("run", decode, "--set", "plan.zero_stage=3", "--set", "plan.recompute=full")
    assert found.status == 2
    assert "zero_stage 3, recompute full: zero_stage and recompute are for training" in found.err


def test_learned_positions_end(llmsim, training: Path) -> None:
    found = llmsim("run", training, "--set", "model=gpt3-175b")
    assert found.status == 2
    assert "8192 tokens: is more than the 2048 learned positions" in found.err
