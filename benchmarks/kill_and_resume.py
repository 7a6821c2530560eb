"""Kill a sweep without warning at random moments, resume it, and compare the rows with those of an undisturbed run.

``python benchmarks/kill_and_resume.py --moments 20`` kills the main process, one of its worker processes, and a worker
of a local dask cluster, that often each; every killed sweep is run again until it ends and must hold exactly the rows
of the undisturbed one, none twice. ``--moments 1`` is the quick form. Prints one line per kind, exit status 1 if a row
differs.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

KINDS = ("main", "worker", "dask")
PARTS = 24
SEED = 7
LIMIT_S = 300.0
SPACE: dict[str, Any] = {
    "model": "gpt3-175b",
    "task": {"kind": "training", "sequence_length": 2048, "global_batch_size": 1536},
    "system": "dgx-a100-80gb",
    "devices": 512,
    "plan": {
        "tensor_parallel": [1, 2, 4, 8],
        "pipeline_parallel": [1, 2, 4, 8, 16],
        "virtual_pipeline": [1, 2, 3],
        "micro_batch_size": [1, 2, 4, 8],
        "recompute": ["none", "selective", "full"],
        "zero_stage": [0, 1, 2, 3],
        "sequence_parallel": [False, True],
        "overlap_grad_reduce": [False, True],
    },
}


def child(folder: Path, kind: str) -> None:
    """Write the parts of the space to a folder, as the command line would."""
    from simulator.spaces.space import space_from
    from simulator.sweeps.sweeping_parts import swept_parts

    space = space_from(SPACE)
    options: dict[str, Any] = {"workers": 2 if kind != "main" else 1}
    if kind == "dask":
        options["scheduler"] = "local"
    with swept_parts(space, folder, part_rows=-(-space.n_rows // PARTS), **options):
        pass


def start(folder: Path, kind: str) -> subprocess.Popen[bytes]:
    """The sweep as a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(folder), "--kind", kind]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def rows_of(folder: Path) -> Any:
    """All rows of a folder in order, as a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from simulator.sweeps.saved_parts import part_files

    table = pa.concat_tables([pq.read_table(path) for path in part_files(folder)])
    return table.sort_by("row")


def victims(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Worker processes of a running sweep."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
        return [p for p in family if "spawn_main" in " ".join(p.cmdline())]
    except psutil.Error:
        return []


def strike(process: subprocess.Popen[bytes], folder: Path, kind: str, parts: int) -> bool:
    """Kill the sweep, or one of its workers, as soon as some parts are there; whether there was anything to kill."""
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < LIMIT_S:
        if len(list(folder.glob("part-*.parquet"))) >= parts:
            time.sleep(random.uniform(0.0, 0.1))
            if kind == "main":
                process.send_signal(signal.SIGKILL)
                return process.wait() != 0
            for worker in victims(process)[-1:]:
                worker.kill()
                return True
        time.sleep(0.005)
    return False


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a sweep that must end well."""
    _, errors = process.communicate(timeout=LIMIT_S)
    if process.returncode != 0:
        raise SystemExit(f"the sweep failed: {errors.decode()[-2000:]}")


def disturbed(kind: str, moments: int, expected: Any, scratch: Path) -> dict[str, Any]:
    """Kill and resume at so many moments; counts of kills that struck, and of runs whose rows differ."""
    struck = different = twice = 0
    for moment in range(moments):
        folder = scratch / f"{kind}-{moment}"
        process = start(folder, kind)
        struck += strike(process, folder, kind, random.randrange(PARTS - 4))
        if kind == "main":
            process.communicate()
            process = start(folder, kind)
        finish(process)
        found = rows_of(folder)
        twice += found.num_rows - len(set(found["row"].to_pylist()))
        # As frames: NaN, which stands for what a task does not have, equals NaN there.
        different += not found.to_pandas().equals(expected.to_pandas())
    return {"kind": kind, "moments": moments, "struck": struck, "rows_twice": twice, "different": different}


def main(arguments: list[str] | None = None) -> int:
    """Run, print, compare; returns the exit status."""
    parser = argparse.ArgumentParser(description="Kill sweeps and resume them.")
    parser.add_argument("--moments", type=int, default=20, help="kills of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of main, worker, dask")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="main", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        child(options.child, options.kind)
        return 0
    random.seed(SEED)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        finish(start(scratch / "undisturbed", "main"))
        expected = rows_of(scratch / "undisturbed")
        found = [disturbed(kind, options.moments, expected, scratch) for kind in options.kinds.split(",")]
    for one in found:
        sys.stdout.write(json.dumps({**one, "rows": expected.num_rows}) + "\n")
    return int(any(one["different"] or one["rows_twice"] for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
