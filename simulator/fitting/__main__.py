"""``python -m simulator.fitting MEASUREMENTS --out FOLDER``: fit, write calibrations, print the errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import track

from simulator.fitting.calibrate import TASKS, calibrate_device
from simulator.fitting.defaults import derived_files
from simulator.fitting.devices import MEASURED_DEVICES
from simulator.fitting.eager_devices import EAGER_DEVICES, eager_file, fit_eager_device
from simulator.fitting.efficiency_files import efficiency_files
from simulator.fitting.error_tables import (
    coefficient_table,
    comparison_table,
    eager_table,
    error_table,
    layer_table,
)
from simulator.fitting.stack_files import stack_files
from simulator.fitting.write_calibration import calibration_file, write_calibration


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 where a table or the output folder is missing."""
    parser = argparse.ArgumentParser(prog="python -m simulator.fitting", description=__doc__)
    parser.add_argument(
        "measurements", type=Path, help="folder with kernels_gemm.parquet and the other tables"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for the calibration files")
    options = parser.parse_args(arguments)
    if options.out is not None and not options.out.is_dir():
        sys.stderr.write(f"{options.out} is not a folder; make it first\n")
        return 2
    try:
        pairs = list(product(MEASURED_DEVICES, TASKS))
        shown = track(pairs, description="fitting", console=Console(stderr=True))
        fits = [calibrate_device(options.measurements, device, task) for device, task in shown]
        derived = derived_files(options.measurements, fits)
        default = next(file for file in derived if file.name == "default")
        eager = [fit_eager_device(options.measurements, device) for device in EAGER_DEVICES]
        means = {file.name: file for file in map(calibration_file, fits)}
        files = [*means.values(), *derived, *(eager_file(fit, default) for fit in eager)]
        files += stack_files(options.measurements, means, default)
        files += efficiency_files(options.measurements, {file.name: file.kernels for file in derived})
    except (FileNotFoundError, ModuleNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for fit in fits:
        for table in (coefficient_table(fit), comparison_table(fit), error_table(fit)):
            sys.stdout.write("\n".join(table) + "\n\n")
    for device in MEASURED_DEVICES:
        of_task = {fit.task: fit.products[0].fitted for fit in fits if fit.device is device}
        serving, own = of_task["inference"], of_task["training"]
        sys.stdout.write("\n".join(layer_table(options.measurements, device, serving, own)) + "\n\n")
    for fitted in eager:
        sys.stdout.write("\n".join(eager_table(fitted)) + "\n\n")
    for file in files if options.out is not None else []:
        sys.stdout.write(f"wrote {write_calibration(file, options.out)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
