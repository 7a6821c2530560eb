"""Logs of nccl-tests (and of rccl-tests, which prints the same) as rows of the table of collectives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hardware_specs.errors import Problem, SpecError

__all__ = ["OPERATIONS", "collectives_of_log"]

# Names of the programs, as the log's first lines or the file's name have them, and what the table calls them.
OPERATIONS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "alltoall",
    "sendrecv": "send_recv",
    "broadcast": "broadcast",
    "reduce": "reduce",
}
TYPES = {
    "float": "fp32",
    "half": "fp16",
    "bfloat16": "bf16",
    "double": "fp64",
    "int8": "int8",
    "uint8": "int8",
}
RANK = re.compile(r"^#\s+Rank\s+(\d+)\s.*?(?:device\s+\S+\s+\[[^\]]*\]\s+(.+?))?\s*$", re.MULTILINE)
VERSION = re.compile(r"(?:nccl|rccl)[ -]+(?:version|headers=)\s*[:=]?\s*(\d[\d.]*)", re.IGNORECASE)
# size, count, type, reduction, root, then out of place: time [us], algbw, busbw, wrong; the same in place.
ROW = re.compile(r"^\s*(\d+)\s+(\d+)\s+(\w+)\s+(\w+)\s+(-?\d+)\s+([\d.]+)\s+([\d.]+)\s+([\d.]+)\s+(\S+)")


def _operation(text: str, path: Path) -> str | None:
    for place in (text[:4000], path.name):
        for name in sorted(OPERATIONS, key=len, reverse=True):
            if f"{name}_perf" in place or (place == path.name and name in place):
                return OPERATIONS[name]
    return None


def _refused(path: Path, rule: str, fix: str) -> SpecError:
    return SpecError([Problem(path=str(path), value="", rule=rule, fix=fix)])


def collectives_of_log(path: Path, device: str, operation: str | None = None) -> list[dict[str, Any]]:
    """Rows of a log.

    Parameters
    ----------
    path : Path
        What ``all_reduce_perf`` or another of nccl-tests' programs printed.
    device : str
        Name of the device for the rows; empty: as the log names it.
    operation : str, optional
        Which collective, where neither the log nor the file's name says.

    Returns
    -------
    list of dict
        Columns of ``collectives``, times out of place [us]. Sizes with wrong results are marked suspect.

    Raises
    ------
    SpecError
        If the file cannot be read, is no such log, or does not say what it measured.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})", "name a log of nccl-tests") from None
    except UnicodeDecodeError:
        raise _refused(path, "is no text", "name what all_reduce_perf printed") from None
    found = list(_rows(text))
    ranks = RANK.findall(text)
    if not found or not ranks:
        rule = "has no ranks and no lines of size, count, type, redop, root, time, algbw, busbw"
        raise _refused(
            path, f"is no log of nccl-tests: it {rule}", "give the whole output of all_reduce_perf"
        )
    known = operation or _operation(text, path)
    if known not in OPERATIONS.values():
        rule = "does not say which collective it measured"
        raise _refused(path, rule, f"give --operation {', '.join(dict.fromkeys(OPERATIONS.values()))}")
    version = VERSION.search(text)
    named = device or next((name for _, name in ranks if name), "")
    return [
        {
            "device": named,
            "impl": "NCCL",
            "version": version[1] if version else "",
            "op": known,
            "n_gpus": len({rank for rank, _ in ranks}),
            "source": path.name,
            **row,
        }
        for row in found
    ]


def _rows(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        match = ROW.match(line)
        if match:
            size, _, dtype, _, _, latency, _, bus, wrong = match.groups()
            if int(size) > 0 and float(latency) > 0:
                yield {
                    "bytes": int(size),
                    "dtype": TYPES.get(dtype, dtype),
                    "latency_us": float(latency),
                    "busbw_GBps": float(bus),
                    "quality": "ok" if wrong in ("0", "0e+00", "N/A") else "suspect_wrong_results",
                }
