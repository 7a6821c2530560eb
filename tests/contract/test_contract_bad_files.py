"""Files that are not scenarios, models or machines: one message, exit status 2, whatever the command."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in ("ab", "bc", "cd", "de", "ef")
)
TEXTS = {
    "not YAML": ("a: [1, 2\nb: }", "is not valid YAML (line 2"),
    "empty": ("", "is empty"),
    "blank": ("\n  \n# nothing\n", "is empty"),
    "words": ("just words", "must be a mapping"),
    "a list": ("- a\n- b\n", "must be a mapping"),
    "a key twice": ("model: a\ndevices: 1\nmodel: b\n", "the key model is written twice"),
    "a tab": ("model: x\n\tb: 3", "tab"),
    "a number as key": ("1: 2\nmodel: gpt3-175b\n", "a key must be text"),
    "a Python object": ('model: !!python/object/apply:os.system ["ls"]', "is not read here"),
    "billions of values": (BOMB, "aliases unfold"),
    "deep nesting": ("a: " + "[" * 5000 + "]" * 5000, "nesting deeper than"),
}


@pytest.mark.parametrize("command", ["run", "sweep", "search", "lint"])
@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_text_that_is_no_description(llmsim, tmp_path: Path, command: str, text: str, message: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    found = llmsim(command, path)
    assert found.status == 2
    assert len(found.messages) == 1
    assert message in found.err


@pytest.mark.parametrize("command", ["run", "sweep", "search", "lint"])
def test_what_is_no_text_file(llmsim, tmp_path: Path, monkeypatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder, binary, huge = Path("folder"), Path("binary.yaml"), Path("huge.yaml")
    folder.mkdir()
    binary.write_bytes(random.Random(1).randbytes(4000) + b"\0")
    with huge.open("wb") as file:
        file.truncate(200_000_000)  # sparse
    for path, message in (
        (Path("nowhere.yaml"), "does not exist; check the path"),
        (folder, "is a directory"),
        (binary, "binary"),
        (huge, "has 200.0 MB, more than"),
    ):
        found = llmsim(command, path)
        assert found.status == 2
        assert len(found.messages) == 1
        assert message in found.err
        assert path.name in found.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_hang(llmsim, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    found = llmsim("run", tmp_path / "pipe.yaml")
    assert found.status == 2
    assert "not a regular file" in found.err


def test_config_of_an_unknown_architecture(llmsim, training: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "flubber", "hidden_size": 3}')
    found = llmsim("run", training, "--set", f"model={tmp_path}/config.json")
    assert found.status == 2
    assert len(found.messages) == 1
    assert "model_type = flubber" in found.err
    assert "known: bloom, gpt2, gpt_oss, llama" in found.err


def test_config_with_wrong_numbers(llmsim, training: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "hidden_size": -3, "num_hidden_layers": 1e400, "num_attention_heads": true,'
        ' "intermediate_size": 2.5, "max_position_embeddings": 10, "vocab_size": "x"}'
    )
    found = llmsim("run", training, "--set", f"model={tmp_path}/config.json")
    assert found.status == 2
    assert len(found.messages) == 5
    for key in (
        "hidden_size = -3",
        "num_hidden_layers = inf",
        "num_attention_heads",
        "intermediate_size = 2.5",
        "vocab_size",
    ):
        assert key in found.err


@pytest.mark.parametrize("text", ['{"hidden_size": 3', "", "[1]", "\0\0"])
def test_config_that_is_no_json_object(
    llmsim, training: Path, tmp_path: Path, monkeypatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(text)
    found = llmsim("run", training, "--set", "model=config.json")
    assert found.status == 2
    assert len(found.messages) == 1
    assert "config.json" in found.err


@pytest.mark.parametrize("key", ["model", "system"])
@pytest.mark.parametrize("name", ["x.yaml", "folder/x.json", "."])
def test_paths_in_a_scenario(llmsim, training: Path, key: str, name: str) -> None:
    found = llmsim("run", training, "--set", f"{key}={name}")
    assert found.status == 2
    assert len(found.messages) == 1


def test_lint_of_hardware_with_mistakes(llmsim, tmp_path: Path) -> None:
    from hardware_specs.catalog_files import catalog_file

    accelerator = catalog_file("accelerator", "h100-sxm").read_text()
    path = tmp_path / "accelerator.yaml"
    path.write_text(accelerator.replace("memory_bandwidth:", "memory_bandwith:").replace("80 GB", "80 flops"))
    found = llmsim("lint", path)
    assert found.status == 2
    assert "memory_bandwith" in found.err
    assert "did you mean memory_bandwidth" in found.err
    system = catalog_file("system", "dgx-h100").read_text()
    path.write_text(system.replace("accelerator: h100-sxm", "accelerator: h100-smx"))
    found = llmsim("lint", path)
    assert found.status == 2
    assert "h100-smx" in found.err
    assert "h100-sxm" in found.err.replace("h100-smx", "")


def test_lint_of_a_model_with_mistakes(llmsim, tmp_path: Path) -> None:
    from workloads.catalog import _FOLDER

    text = (_FOLDER / "llama-2-7b.yaml").read_text()
    path = tmp_path / "model.yaml"
    path.write_text(text)
    assert llmsim("lint", path).status == 0
    path.write_text(text.replace("hidden: 4096", "hidden: 4095").replace("n_layers: 32", "n_layers: -32"))
    found = llmsim("lint", path)
    assert found.status == 2
    assert "n_layers = -32" in found.err
    assert "hidden = 4095" in found.err


def test_lint_of_a_scenario(llmsim, training: Path) -> None:
    found = llmsim("lint", training)
    assert found.status == 2
    assert "is a scenario, not a hardware or model file; llmsim run checks it" in found.err


SAVED = {
    "x.csv": [
        (b"a,b\n1,2\n", "it has no step_time_s"),
        (b"", "cannot be read"),
        (b"step_time_s\nabc\n", "it has no peak_bytes"),
        (b"step_time_s,peak_bytes\nabc,1\n", "step_time_s must hold numbers"),
        (bytes(range(256)) * 9, "cannot be read"),
        (b'a,b\n1,2\n1,2,3,4\n"', "cannot be read"),
    ],
    "x.parquet": [(bytes(range(256)) * 9, "cannot be read"), (b"", "cannot be read")],
}


@pytest.mark.parametrize(
    ("name", "content", "message"), [(n, c, m) for n, rows in SAVED.items() for c, m in rows]
)
def test_a_saved_sweep_that_is_none(llmsim, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = llmsim("report", tmp_path / name, "--out", tmp_path / "report")
    assert found.status == 2
    assert len(found.messages) == 1
    assert message in found.err
    assert not (tmp_path / "report").exists()


def test_a_saved_sweep_that_is_not_there(llmsim, tmp_path: Path) -> None:
    found = llmsim("report", tmp_path / "x.parquet", "--out", tmp_path / "report")
    assert (found.status, len(found.messages)) == (2, 1)
    assert "does not exist" in found.err
