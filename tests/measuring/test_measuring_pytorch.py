"""The whole flow on this machine with real PyTorch, reduced: measure, calibrate, predict, compare.

Other work on the machine makes these times noisy, so bounds are loose: they catch a wrong formula or unit, not noise.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.measuring import torch_module
from simulator.measuring.run_tasks import DecoderSize, RunTask

pytest.importorskip("torch", reason="measuring needs the measure extra")
pytest.importorskip("scipy", reason="fitting needs the calibrate extra")

# A wrong unit or a forgotten layer is off by more than this; a machine with other work is not.
LOOSE = 3.0
SIZE = DecoderSize(n_layers=2, hidden=256, heads=4, ffn=1024, vocab=2048)


def test_the_engine_never_loads_torch() -> None:
    code = "import sys, simulator, simulator.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_torch_the_way_to_install_it_is_told(monkeypatch, tmp_path: Path, llmsim) -> None:
    monkeypatch.setattr(torch_module, "find_spec", lambda name: None)
    done = llmsim("measure", "--out", tmp_path / "m")
    assert done.status == 2 and "pip install 'llmsim[measure]'" in done.err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--device", "cuda"), "is not there: torch"),
        (("--device", "gpu"), "use cpu, cuda, mps, xpu"),
        (("--dtype", "int3"), "use fp32, bf16, fp16"),
        (("--run", "--mode", "lazy"), "use eager or compile"),
        (("--threads", "4096"), "more than the"),
        (("--graphs",), "are of CUDA alone"),
    ],
)
def test_bad_wishes_are_told(tmp_path: Path, llmsim, arguments: tuple[str, ...], told: str) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = llmsim("measure", "--out", tmp_path / "m", *arguments)
    assert done.status == 2 and told in done.err


def test_compiling_without_a_compiler_is_told(monkeypatch, tmp_path: Path, llmsim) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = llmsim("measure", "--out", tmp_path / "m", "--run", "--mode", "compile")
    assert done.status == 2 and "install g++" in done.err and not (tmp_path / "m").exists()


def measure_a_little(folder: Path, script: str = "measure_a_little.py") -> dict:
    """Run a script of this folder; what it printed."""
    here = Path(__file__).resolve()
    paths = os.pathsep.join([str(here.parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(here.with_name(script)), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """Tables of this machine: one thread, short rows, no patience; in a process of its own, as it sets threads."""
    folder = tmp_path_factory.mktemp("measured")
    measure_a_little(folder)
    quietened(folder)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def quietened(folder: Path) -> None:
    """A shared machine of tests may be noisy all the time: the flow is tested here, not the noise."""
    for path in folder.glob("*.csv"):
        found = rows_of(path)
        for row in found:
            row |= {"quality": "ok", "spread": "0.05", "reference_us": "300"}
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)


def test_the_flow_from_measured_to_predicted(measured: Path, llmsim) -> None:
    """No run is fitted: each is predicted from the operators alone, its time loosely and its memory closely."""
    done = llmsim("calibrate", "--data", measured, "--out", measured / "mine.yaml")
    assert done.status == 0, done.err
    done = llmsim(
        "validate", "--data", measured / "measured_runs.csv", "--format", "json", "--out", measured / "out"
    )
    assert done.status == 0, done.err
    scores = json.loads(done.out)["rows"]
    assert (measured / "out" / "parity.png").stat().st_size > 1000
    assert len(scores) == 9 and not any(row["skipped_because"] for row in scores)
    for row in scores:
        ratio = row["predicted"] / row["measured"]
        if row["quantity"] == "peak_memory":
            # PyTorch's own count is exact, whatever else the machine does.
            assert 0.9 < ratio < 1.1, row
        else:
            assert 1 / LOOSE < ratio < LOOSE, row
            assert row["low"] < row["predicted"] < row["high"]


def test_a_second_call_measures_nothing_again(measured: Path) -> None:
    before = rows_of(measured / "kernels_gemm.csv")
    told = measure_a_little(measured)
    assert told["operators"]["measured"] == 0 and told["operators"]["known"] == len(before) + told["others"]
    assert rows_of(measured / "kernels_gemm.csv") == before


def test_two_processes_exchange_and_train(tmp_path: Path, llmsim) -> None:
    """gloo between two processes: collectives, and a step of DDP and of FSDP that is scored by its system."""
    told = measure_a_little(tmp_path, "measure_a_pair.py")
    found = rows_of(tmp_path / "collectives.csv")
    assert {row["op"] for row in found} == {"all_reduce", "all_gather", "reduce_scatter"}
    assert all(float(row["latency_us"]) > 10 and row["n_gpus"] == "2" for row in found)
    runs = rows_of(tmp_path / "measured_runs.csv")
    assert [row["strategy"] for row in runs] == ["ddp", "fsdp"] and told["processes"] == 2
    assert all(float(row["measured_ms"]) > 0 for row in runs)
    done = llmsim("validate", "--data", tmp_path / "measured_runs.csv", "--format", "json")
    assert done.status == 0 and "run llmsim calibrate there" in done.out
    done = llmsim(
        "validate",
        "--data",
        tmp_path / "measured_runs.csv",
        "--system",
        "xeon-2s",
        "--format",
        "json",
    )
    scores = [row for row in json.loads(done.out)["rows"] if row["quantity"] == "step_time"]
    assert len(scores) == 2 and all(row["predicted"] > 0 for row in scores)


def test_peak_memory_is_what_the_tensors_are() -> None:
    """By hand: 1 MiB lives before; two more MiB are made, one of them is freed before the next is made."""
    import torch

    from simulator.measuring.peak_memory import peak_bytes

    x = torch.zeros(2**18)

    def call() -> object:
        y = x + 1
        del y
        return x + 2

    assert peak_bytes(call, [x], "cpu") == pytest.approx(2 * 2**20, rel=1e-4)  # and the bytes of a scalar


def test_a_decode_step_reads_the_cache_that_a_prompt_left() -> None:
    """The measured decoder is a real one: a token behind a prompt has the logits of the whole sequence."""
    import torch

    from simulator.measuring.transformer import Decoder, empty_caches

    torch.manual_seed(1)
    model = Decoder(SIZE, 9).eval()
    tokens = torch.randint(0, SIZE.vocab, (2, 9))
    with torch.no_grad():
        whole = model(tokens)
        kept: list = [[] for _ in range(SIZE.n_layers)]
        model(tokens[:, :8], kept, 0)
        caches = empty_caches(SIZE, 2, 9, torch.float32, "cpu")
        for pair, ((keys, values),) in zip(caches, kept, strict=True):
            pair[0][:, :, :8], pair[1][:, :, :8] = keys, values
        last = model(tokens[:, 8:], caches, 8)
    assert torch.allclose(whole[:, 8:], last, atol=1e-4)


def test_ids_say_everything() -> None:
    task = RunTask(
        size=SIZE, phase="train", mode="eager", strategy="ddp", dtype="fp32", seq_len=64, batch=4, processes=2
    )
    assert task.id == "train/eager/fp32/l2h256a4f1024v2048/s64b4-ddp2"
    assert task.columns()["vocab"] == 2048
