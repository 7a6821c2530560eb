"""Who measured: processor or GPU, threads, software, and an identity that keeps two machines' rows apart."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from hardware_specs.errors import Problem, SpecError
from hardware_specs.strict_yaml import load_yaml
from simulator.measuring.energy_counter import counter_of

__all__ = ["FILE", "Machine", "check_same", "read_machine", "this_machine", "write_machine"]

FILE = "machine.yaml"
ID_DIGITS = 10
KILO = 1e3
# What makes rows comparable; the rest (clock, governor) is recorded only.
IDENTITY = ("processor", "device", "device_name", "threads", "processes", "torch", "driver", "allocator")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was measured and with which software.

    Attributes
    ----------
    name : str
        Name for the device in tables and files.
    processor, device, device_name, driver : str
        Host processor, kind of PyTorch device, its name, and driver or "".
    cores, threads, processes : int
        Cores of the host, threads of each process, processes that ran at once [1].
    memory_bytes, cache_bytes, private_cache_bytes : float
        Memory and last-level cache of the device, and private cache of a core or unit [byte].
    clock_hz : float
        Nominal clock [Hz].
    units : int
        Cores, or multiprocessors, that one process uses [1].
    governor, allocator, torch, libraries : str
        Settings and versions.
    energy_counter : str
        "rapl", "nvml" or "none".
    """

    name: str
    processor: str
    device: str
    device_name: str
    driver: str
    cores: int
    threads: int
    processes: int
    units: int
    memory_bytes: float
    cache_bytes: float
    private_cache_bytes: float
    clock_hz: float
    governor: str
    allocator: str
    torch: str
    libraries: str
    energy_counter: str = "none"

    @property
    def exact_waits(self) -> bool:
        """Whether the system tells exactly how long a row waited for a core: one thread of a process on a processor."""
        return self.device == "cpu" and self.threads == 1

    @property
    def id(self) -> str:
        """Digits that stand for this machine and its settings in each row."""
        text = "|".join(str(getattr(self, name)) for name in IDENTITY)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _size(text: str) -> float:
    found = re.fullmatch(r"(\d+)([KMG]?)", text)
    return float(found[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[found[2]] if found else 0.0


def _caches() -> tuple[float, float]:
    """Last-level cache, and the largest cache before it, of the first core [byte]; 0 where it is not told."""
    sizes: dict[int, float] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _read(f"{folder}/type") != "Instruction":
            sizes[int(_read(f"{folder}/level") or 0)] = _size(_read(f"{folder}/size"))
    levels = sorted(sizes)
    if not levels:
        return 0.0, 0.0
    return sizes[levels[-1]], sizes[levels[-2]] if len(levels) > 1 else sizes[levels[-1]]


def _processor() -> tuple[str, float]:
    """Name of the processor, and its clock as the system tells it [Hz]."""
    text = _read("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    clock = re.search(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)
    most = _read("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    hertz = float(most) * 1e3 if most.isdigit() else float(clock[1]) * 1e6 if clock else 2e9
    return (name[1].strip() if name else platform.processor() or platform.machine()), hertz


def _slug(text: str) -> str:
    words = re.sub(r"\(.*?\)|processor|cpu|with .*$", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:40].strip("-") or "machine"


def this_machine(device: str, *, threads: int, processes: int, allocator: str) -> Machine:
    """Identity of this machine.

    Parameters
    ----------
    device : str
        PyTorch device.
    threads, processes : int
        Of each process, and at once [1].
    allocator : str
        How freed memory is kept.

    Returns
    -------
    Machine
        Figures of the device where PyTorch or the system tells them, 0 where not.

    Raises
    ------
    ModuleNotFoundError
        Without PyTorch.
    """
    import torch

    processor, clock = _processor()
    cache, private = _caches()
    counter = counter_of(device)
    known: dict[str, Any] = {
        "device_name": processor,
        "driver": "",
        "units": threads,
        "memory_bytes": float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "cache_bytes": cache,
        "private_cache_bytes": private,
        "clock_hz": clock,
        "name": f"{_slug(processor)}-{threads}t" + (f"-of-{processes}" if processes > 1 else ""),
    }
    if device == "cuda":
        figures = torch.cuda.get_device_properties(0)
        known |= {
            "device_name": str(figures.name),
            "driver": f"cuda {torch.version.cuda}",
            "units": figures.multi_processor_count,
            "clock_hz": float(getattr(figures, "clock_rate", 0.0)) * KILO or clock,
            "memory_bytes": float(figures.total_memory),
            "cache_bytes": float(getattr(figures, "L2_cache_size", 0)),
            "private_cache_bytes": float(getattr(figures, "shared_memory_per_multiprocessor", 0)),
            "name": _slug(figures.name),
        }
    elif device != "cpu":
        known |= {"device_name": f"{processor} {device}", "name": f"{_slug(processor)}-{device}", "units": 1}
    return Machine(
        processor=processor,
        device=device,
        cores=os.cpu_count() or 1,
        threads=threads,
        processes=processes,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        allocator=allocator,
        torch=str(torch.__version__),
        energy_counter="none" if counter is None else counter.name,
        libraries="mkl" if torch.backends.mkl.is_available() else "other BLAS",
        **known,
    )


def write_machine(folder: Path, machine: Machine) -> None:
    """Write the identity beside the tables; OSError if it cannot be written."""
    text = yaml.safe_dump({"id": machine.id, **asdict(machine)}, sort_keys=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(text, encoding="utf-8")


def read_machine(folder: Path) -> Machine | None:
    """The identity beside the tables of a folder, or None.

    Raises
    ------
    SpecError
        If the file lacks keys.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    data: Mapping[str, Any] = load_yaml(path)
    names = fields(Machine)
    lacking = [f.name for f in names if f.name not in data and f.default is MISSING]
    if lacking:
        rule, fix = f"lacks {', '.join(lacking)}", "let llmsim measure write the folder anew"
        raise SpecError([Problem(path=str(path), value="", rule=rule, fix=fix)])
    return Machine(**{f.name: data[f.name] for f in names if f.name in data})


def check_same(folder: Path, machine: Machine) -> None:
    """Refuse to add rows of one machine to the tables of another: SpecError that says what differs."""
    there = read_machine(folder)
    if there is None or there.id == machine.id:
        return
    differs = [
        f"{name} {getattr(there, name)!r} there and {getattr(machine, name)!r} here"
        for name in IDENTITY
        if getattr(there, name) != getattr(machine, name)
    ]
    rule = f"holds rows of another machine or of other settings: {'; '.join(differs)}"
    fix = "choose another --out folder, or the same settings"
    raise SpecError([Problem(path=str(folder), value=there.id, rule=rule, fix=fix)])
