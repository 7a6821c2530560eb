"""``python -m simulator.fitting.fabrics MEASUREMENTS --out FOLDER``: fit collectives, write files, print the errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from simulator.fitting.fabric_evidence import fabric_tables
from simulator.fitting.fabric_files import fabric_files, write_fabric_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 where a table or the output folder is missing."""
    parser = argparse.ArgumentParser(prog="python -m simulator.fitting.fabrics", description=__doc__)
    parser.add_argument("measurements", type=Path, help="folder with collectives.parquet and micro.csv")
    parser.add_argument("--out", type=Path, default=None, help="folder for the calibration files")
    options = parser.parse_args(arguments)
    if options.out is not None and not options.out.is_dir():
        sys.stderr.write(f"{options.out} is not a folder; make it first\n")
        return 2
    try:
        files = fabric_files(options.measurements)
        paths = write_fabric_files(files, options.out) if options.out is not None else []
        tables = fabric_tables(options.measurements)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("\n".join(tables) + "\n")
    for path in paths:
        sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
