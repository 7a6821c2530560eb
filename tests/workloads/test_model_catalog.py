"""Where a model comes from: names, files, folders and mappings; and what is said when it is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hardware_specs.errors import SpecError
from workloads.catalog import list_models, load_model, model_hash
from workloads.model_spec import ModelSpec

SHAPES = {"n_layers": 2, "hidden": 64, "heads": 4, "ffn": 128, "vocab": 100, "max_positions": 32}


def problems_of(source):
    with pytest.raises(SpecError) as caught:
        load_model(source)
    assert all("\n" not in str(problem) for problem in caught.value.problems)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize("name", list_models())
def test_catalog_files_are_complete(name):
    model = load_model(name)
    assert model.name == name
    assert any(mark in model.source for mark in ("arXiv", "OpenAI", "Hugging Face", "llm-foundry"))
    assert model.published_parameters is not None or model.note
    assert len(model_hash(name)) == 12


@pytest.mark.parametrize("name", list_models())
def test_a_dumped_model_is_read_back(name):
    model = load_model(name)
    assert load_model(model.model_dump()) == model
    assert load_model(model) is model


def test_defaults_follow_from_the_shapes():
    model = load_model(SHAPES)
    assert (model.kv_heads, model.head_dim, model.activation) == (4, 16, "silu")
    assert load_model({**SHAPES, "gated_mlp": False}).activation == "gelu"
    assert load_model({**SHAPES, "head_dim": None, "kv_heads": None}) == model
    assert load_model({**SHAPES, "hidden": 66, "head_dim": 16}).head_dim == 16


def test_sources_agree(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in SHAPES.items()))
    assert load_model(path) == load_model(str(path)) == load_model(SHAPES)


def test_a_base_gives_the_keys_that_are_not_changed():
    model = load_model({"base": "llama-3.1-8b", "n_layers": 16})
    original = load_model("llama-3.1-8b")
    assert (model.n_layers, model.ffn) == (16, original.ffn)
    assert model.published_parameters is None
    assert "n_layers" in model.source
    wide = load_model({"base": "llama-3.1-8b", "hidden": 8192, "name": "wide"})
    assert (wide.name, wide.head_dim) == ("wide", 256)  # derived anew, not taken from the base
    assert load_model({"base": "llama-3.1-8b"}) == original
    assert "llama-3.1-8b" in problems_of({"base": "llama-3.1-9b"})["model.base"].fix
    assert "model.n_layer" in problems_of({"base": "llama-3.1-8b", "n_layer": 3})


def test_unknown_name_offers_near_ones():
    problem = problems_of("llama-3.1-80b")["model"]
    assert "llama-3.1-8b" in problem.fix
    assert "deepseek" not in problem.fix
    assert "gpt3-175b" in problems_of("zzzz")["model"].fix


@pytest.mark.parametrize("source", ["", " ", "\0", "x" * 5000, "GPT3"])
def test_hopeless_names_are_refused(source):
    assert "model" in problems_of(source)


@pytest.mark.parametrize("source", [None, 3, 1.5, ["llama-2-7b"], b"llama-2-7b"])
def test_other_types_are_refused(source):
    assert "mapping" in problems_of(source)["model"].rule


def test_all_mistakes_of_a_mapping_at_once():
    wrong = {
        "n_layers": 0,
        "hidden": 100,
        "heads": 8,
        "kv_heads": 3,
        "ffn": -1,
        "vocab": "many",
        "gated_mlp": "yes",
        "norm": "batch",
        "norm_bias": True,
        "dropout": float("nan"),
        "sliding_window": 0,
        "hiden": 3,
        "schema_version": 2,
    }
    problems = problems_of(wrong)
    keys = {"n_layers", "hidden", "kv_heads", "ffn", "vocab", "gated_mlp", "norm", "dropout"}
    keys |= {"sliding_window", "hiden", "schema_version", "max_positions"}
    assert set(problems) == {f"model.{key}" for key in keys}
    assert "hidden" in problems["model.hiden"].fix
    assert "96" in problems["model.hidden"].fix
    assert "1, 2, 4, 8" in problems["model.kv_heads"].fix


@pytest.mark.parametrize("value", [0, -1, 2.0, 1.5, True, "8", None, [8], float("inf"), float("nan"), 10**30])
@pytest.mark.parametrize("key", ["n_layers", "hidden", "heads", "ffn", "vocab", "max_positions"])
def test_dimensions_are_positive_whole_numbers(key, value):
    assert f"model.{key}" in problems_of({**SHAPES, key: value})


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"head_dim": 15}, "head_dim"),
        # one message each: a key that is wrong by itself brings no complaint about another
        ({"head_dim": "x", "hidden": 66}, "head_dim"),
        ({"hidden": 0}, "hidden"),
        ({"heads": 0}, "heads"),
        ({"norm": "batch", "norm_bias": True}, "norm"),
        ({"positions": "x", "position_offset": 2}, "positions"),
        ({"norm_bias": True}, "norm_bias"),
        ({"position_offset": 2}, "position_offset"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"source": "me"}, "source"),
        ({"kv_heads": 8}, "kv_heads"),
        ({"attention_chunk": 8, "sliding_window": 8}, "attention_chunk"),
        ({"attention_chunk": 8, "causal": False}, "attention_chunk"),
        ({"sliding_window": 8, "causal": False}, "sliding_window"),
        ({"attention_chunk": 0}, "attention_chunk"),
        ({"global_attention_every": 2}, "global_attention_every"),
        ({"sliding_window": 8, "global_attention_every": 1}, "global_attention_every"),
        ({"global_rotary": False}, "global_rotary"),
        ({"sliding_window": 8, "global_rotary": False}, "global_rotary"),
        (
            {"sliding_window": 8, "global_attention_every": 2, "global_rotary": False, "positions": "alibi"},
            "global_rotary",
        ),
        ({"experts_every": 2}, "experts_every"),
        ({"router_bias": True}, "router_bias"),
        ({"experts": 4, "topk": 1, "experts_every": 3}, "experts_every"),
        (
            {"kv_lora_rank": 8, "rope_head_dim": 4, "value_head_dim": 8, "attention_sinks": True},
            "attention_sinks",
        ),
    ],
)
def test_contradictions_are_refused(changes, key):
    assert set(problems_of({**SHAPES, **changes})) == {f"model.{key}"}


def test_the_class_itself_raises_spec_errors():
    with pytest.raises(SpecError, match="hidden"):
        ModelSpec(**{**SHAPES, "hidden": 0})


def test_keys_that_are_not_text():
    assert "text" in problems_of({**SHAPES, 3: 4})["model.3"].rule


def test_bad_files(tmp_path):
    def refused(path, *words):
        (problem,) = problems_of(str(path)).values()
        assert str(path.name)[:20] in str(problem)
        assert any(word in str(problem) for word in words), str(problem)

    refused(tmp_path / "none.json", "does not exist")
    refused(tmp_path / "none.yaml", "does not exist")
    refused(tmp_path / "none" / "model", "does not exist")
    refused(tmp_path, "without a config.json")
    for name in ("dir.json", "dir.yaml"):
        (tmp_path / name).mkdir()
        refused(tmp_path / name, "without a config.json")
    for name, content, word in (
        ("empty.json", "", "empty"),
        ("blank.json", " \n", "empty"),
        ("text.json", "{\n'a': 1}", "line 2"),
        ("list.json", "[1]", "list"),
        ("number.json", "3", "int"),
        ("twice.json", '{"model_type": "llama", "model_type": "gpt2"}', "twice"),
        ("deep.json", "[" * 100_000, "JSON"),
        ("digits.json", '{"a": ' + "9" * 5000 + "}", "JSON"),
        ("empty.yaml", "", "empty"),
        ("twice.yaml", "hidden: 3\nhidden: 4\n", "twice"),
        ("model.txt", "hidden: 3", "neither"),
    ):
        (tmp_path / name).write_text(content)
        refused(tmp_path / name, word)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path / "binary.json", "UTF-8")
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(200_000_000)
    refused(tmp_path / "big.json", "200.0 MB")
    os.mkfifo(tmp_path / "pipe.json")
    refused(tmp_path / "pipe.json", "regular file")


def test_a_json_file_in_our_keys_is_told_apart(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(SHAPES))
    (problem,) = problems_of(path).values()
    assert "model_type" in problem.path


def test_loading_pulls_in_no_heavy_package():
    code = (
        "import sys; from workloads.catalog import load_model; load_model('llama-3.1-8b');"
        "print(*[m for m in ('pandas', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
