"""Parts of a sweep: resumed, shared among processes, killed: the rows are those of one undisturbed run, each once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hardware_specs import ScenarioError
from simulator.arrays.axis_dependence import Dependence
from simulator.composition.layer_cache import LayerCache
from simulator.spaces.partition import Splitter
from simulator.spaces.space import space_from
from simulator.sweeps import sweep_parts
from simulator.sweeps.part_workers import write_parts
from simulator.sweeps.saved_parts import part_files, parts_frame
from simulator.sweeps.saved_sweep import read_result
from simulator.sweeps.sweep_parts import metadata_of, open_folder
from simulator.sweeps.sweeping import run_space
from simulator.sweeps.sweeping_parts import parts_folder, swept_parts

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
SPACE = {
    "model": ["llama-2-7b", "llama-3.1-8b"],
    "task": {"kind": "training", "sequence_length": 512, "global_batch_size": 32},
    "system": "dgx-a100-80gb",
    "devices": [8, 16],
    "plan": {
        "tensor_parallel": [1, 2, 3, 4, 8],
        "pipeline_parallel": [1, 2, 4],
        "zero_stage": [0, 1, 3],
        "attention_kernel": ["flash", "unfused"],
        "precision": {"sweep": ["bf16", {"weights": "bf16", "gradients": "fp32"}]},
    },
}


def changed(**keys):
    return {**SPACE, **keys}


def assert_rows_are_those_of_one_run(folder: Path) -> None:
    expected = run_space(space_from(SPACE))
    frame = parts_frame(part_files(folder))
    assert frame["row"].tolist() == expected.rows.tolist()
    for name, values in expected.columns.items():
        assert np.array_equal(frame[name].to_numpy(dtype=float), values, equal_nan=True), name
    for name, values in expected.keys().items():
        assert frame[name].tolist() == values.tolist(), name


def test_parts_hold_the_rows_of_one_run_and_say_what_they_are(tmp_path: Path) -> None:
    space = space_from(SPACE)
    with swept_parts(space, tmp_path / "rows", part_rows=50) as (folder, about):
        assert len(part_files(folder.path)) == folder.n_parts == -(-space.n_rows // 50) > 4
    assert_rows_are_those_of_one_run(tmp_path / "rows")
    expected = run_space(space)
    assert about["excluded"] == expected.excluded
    assert (about["rows_kept"], about["rows_in_space"]) == (len(expected.rows), space.n_rows)
    said = metadata_of(folder.part(1))
    assert (said["start"], said["stop"]) == (50, 100)
    assert said["base"]["task"]["sequence_length"] == 512
    assert {"model llama-2-7b", "system dgx-a100-80gb", "calibration default"} <= said["catalog"].keys()
    assert said["llmsim_version"] and said["fingerprint"] == folder.identity["fingerprint"]
    import pyarrow.parquet as pq

    assert pq.read_metadata(folder.part(0)).row_group(0).column(0).compression == "ZSTD"


def test_a_sweep_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, written = space_from(SPACE), []
    with swept_parts(space, tmp_path / "rows", part_rows=60) as (folder, _):
        pass
    before = {path: path.stat().st_mtime_ns for path in part_files(folder.path)}
    for number in (0, 3):
        folder.part(number).unlink()
    (folder.path / ".part-000000.parquet.123-abc.part").write_bytes(b"half")
    run_rows = sweep_parts.run_rows
    monkeypatch.setattr(sweep_parts, "run_rows", lambda *a: written.append(a[2:4]) or run_rows(*a))
    with swept_parts(space, tmp_path / "rows", part_rows=999):
        pass
    assert written == [folder.span(0), folder.span(3)]
    assert_rows_are_those_of_one_run(tmp_path / "rows")
    after = {path: path.stat().st_mtime_ns for path in part_files(folder.path)}
    assert sum(after[path] == before[path] for path in before) == folder.n_parts - 2


def test_one_file_is_made_of_the_parts(tmp_path: Path) -> None:
    space, out = space_from(SPACE), tmp_path / "rows.parquet"
    with swept_parts(space, out, part_rows=60):
        assert parts_folder(out).is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.parquet"]
    frame, expected = read_result(out), run_space(space)
    assert list(frame.columns) == list(expected.frame().columns)
    assert np.array_equal(frame["step_time_s"], expected.columns["step_time_s"])
    assert frame.attrs["excluded"] == expected.excluded


def test_blocks_that_other_ranges_left_are_those_of_these_rows() -> None:
    """What a column depends on is known of the rows so far; rows of other ranges may need more axes."""
    space = space_from(SPACE)
    whole, splitter, cache = run_space(space), Splitter(space), LayerCache()
    for part_rows in (50, 60, 100, 37):
        for start in range(0, space.n_rows, part_rows):
            found = sweep_parts.run_rows(splitter, cache, start, min(start + part_rows, space.n_rows))
            here = np.searchsorted(whole.rows, found.rows)
            for name, values in found.columns.items():
                assert np.array_equal(values, whole.columns[name][here], equal_nan=True), name


def test_axes_that_values_depend_on() -> None:
    positions = {0: np.repeat([0, 1, 2], 4), 3: np.tile([5, 5, 7, 7], 3), 4: np.tile([0, 1], 6)}
    dependence = Dependence(positions)
    assert dependence.mask(np.ones(12)) == 0
    assert dependence.mask(positions[3] * 2.0) == 1 << 3
    assert dependence.mask(positions[0] + 10.0 * positions[4]) == 1 | 1 << 4
    assert dependence.mask(np.arange(12.0)) == 1 | 1 << 3 | 1 << 4
    assert not dependence.follows(positions[4] * 1.0, 1 | 1 << 3)


def test_several_processes_write_the_same_rows(tmp_path: Path) -> None:
    with swept_parts(space_from(SPACE), tmp_path / "rows", workers=2, part_rows=100):
        pass
    assert_rows_are_those_of_one_run(tmp_path / "rows")


def test_parts_of_another_sweep_are_refused(tmp_path: Path) -> None:
    with swept_parts(space_from(SPACE), tmp_path / "rows", part_rows=100) as (folder, _):
        pass
    for other, word in (
        (changed(devices=[8, 32]), "other values"),
        (changed(fidelity="bound"), "other base"),
        (changed(where="devices > 8"), "where"),
    ):
        with pytest.raises(ScenarioError, match="parts of another sweep") as refused:
            open_folder(tmp_path / "rows", space_from(other))
        assert word.split()[-1] in str(refused.value) or "axes" in str(refused.value)
    manifest = json.loads((folder.path / "sweep.json").read_text())
    manifest["identity"]["fingerprint"] = "0"
    manifest["identity"]["llmsim_version"] = "0.0.1"
    (folder.path / "sweep.json").write_text(json.dumps(manifest))
    with pytest.raises(ScenarioError, match="other llmsim_version"):
        open_folder(tmp_path / "rows", space_from(SPACE))


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter one")
    with pytest.raises(ScenarioError, match="other files in it"):
        open_folder(tmp_path, space_from(SPACE))
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(ScenarioError, match="not that of a sweep"):
        open_folder(tmp_path, space_from(SPACE))


def test_a_full_disk_leaves_whole_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third part finds no room: two are whole, nothing else is left, and with room again the rows are complete."""
    space, calls, write_table = space_from(SPACE), [], sweep_parts.write_table

    def full(table, path):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"PAR1 and then no more")
            raise OSError(28, "No space left on device")
        write_table(table, path)

    monkeypatch.setattr(sweep_parts, "write_table", full)
    with (
        pytest.raises(ScenarioError, match="No space left on device"),
        swept_parts(space, tmp_path / "rows", part_rows=60),
    ):
        pass
    assert sorted(p.name for p in (tmp_path / "rows").iterdir()) == [
        "part-000000.parquet",
        "part-000001.parquet",
        "sweep.json",
    ]
    monkeypatch.undo()
    with swept_parts(space, tmp_path / "rows"):
        pass
    assert_rows_are_those_of_one_run(tmp_path / "rows")


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simulator.sweeps import part_workers

    monkeypatch.setattr(part_workers, "CONNECT", "1s")
    space = space_from(SPACE)
    folder = open_folder(tmp_path / "rows", space)
    with pytest.raises(ScenarioError, match=r"cannot be reached .*dask scheduler"):
        write_parts(space, folder, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ScenarioError, match="cannot be reached"):
        write_parts(space, folder, scheduler="no address")
    assert folder.missing() == list(range(folder.n_parts))


@pytest.mark.parametrize("kind", ["main", "worker", "dask"])
def test_killed_without_warning(kind: str, tmp_path: Path) -> None:
    """One kill -9 each; the benchmark does it twenty times."""
    import kill_and_resume as benchmark

    undisturbed = tmp_path / "undisturbed"
    benchmark.child(undisturbed, "main")
    expected = benchmark.rows_of(undisturbed)
    assert expected.num_rows > 1000
    found = benchmark.disturbed(kind, 1, expected, tmp_path)
    assert (found["struck"], found["rows_twice"], found["different"]) == (1, 0, 0)
