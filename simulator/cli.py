"""The command line ``llmsim``: the list of commands, and what becomes of errors.

With the modules below ``simulator.commands`` the one place that joins ``simulator`` and ``reports``. Imports that
cost time stay inside the commands.
"""

from __future__ import annotations

import sys

import typer

from hardware_specs.errors import InfeasibleError, LlmsimError
from simulator.commands.calibrate import calibrate
from simulator.commands.catalog import lint, list_, show
from simulator.commands.many import query, search, sweep
from simulator.commands.measure import measure
from simulator.commands.measured import validate
from simulator.commands.network import network
from simulator.commands.one import compare, explain, report, run
from simulator.commands.read import read

app = typer.Typer(
    name="llmsim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="How long, how much memory, how many joules: LLM workloads on hardware, from a model, a machine and a plan."
    "\n\nA scenario is a YAML file; start from one in examples/, and see llmsim run --help.",
)
BAD_INPUT, UNMET = 2, 1

app.command()(run)
app.command()(sweep)
app.command()(search)
app.command()(query)
app.command()(explain)
app.command()(compare)
app.command()(report)
app.command(name="list")(list_)
app.command()(show)
app.command()(lint)
app.command()(measure)
app.command()(read)
app.command()(validate)
app.command()(network)
app.command()(calibrate)


def main() -> None:
    """Entry point: exit status 2 for bad input, 1 for an unmet limit, one message per mistake, no traceback."""
    from reports.errors import ReportError

    try:
        app(prog_name="llmsim")
    except InfeasibleError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(UNMET) from None
    except (LlmsimError, ReportError) as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(BAD_INPUT) from None
    except BrokenPipeError:
        # The reader has gone (such as head); Python would complain once more when it flushes at exit.
        sys.stderr.close()
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
