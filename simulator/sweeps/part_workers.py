"""Who writes the parts of a sweep: this process, processes of this machine, or a dask cluster.

Parts are independent tasks, so a worker that dies costs the part that it was writing, which is handed out again.
"""

from __future__ import annotations

import concurrent.futures as futures
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from hardware_specs.errors import LlmsimError, Problem, ScenarioError
from simulator.spaces.space import Space
from simulator.sweeps.sweep_parts import SweepFolder, write_part

# A part that has killed its worker this often is given up: it needs more memory than there is, say.
TRIES = 5
WATCH_S = 1.0
CONNECT = "10s"
LOCAL = "local"


def write_parts(
    space: Space,
    folder: SweepFolder,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the parts that are missing.

    Parameters
    ----------
    space, folder : Space, SweepFolder
        The sweep, from :func:`simulator.sweeps.sweep_parts.open_folder`.
    workers : int
        Processes on this machine, this one included [1]. With a scheduler "local": of the local cluster.
    scheduler : str, optional
        Address of a dask scheduler whose workers see the folder under the same path, or "local".
    progress : callable, optional
        Called with the rows done so far.

    Raises
    ------
    ScenarioError
        If a part cannot be written, the scheduler cannot be reached, or a part kills every worker it is given to.
    """
    todo = folder.missing()
    done = sum(
        stop - start for start, stop in (folder.span(i) for i in range(folder.n_parts) if i not in {*todo})
    )

    lock = threading.Lock()

    def add(rows: int) -> None:
        nonlocal done
        with lock:
            done += rows
            if progress is not None:
                progress(done)

    add(0)
    if not todo:
        return
    if scheduler is None and workers == 1:
        for number in todo:
            add(write_part(space, folder, number))
        return
    tries = dict.fromkeys(todo, 0)
    while todo:
        if scheduler is None:
            with _processes(workers - 1) as others:
                _shared_out(others, workers - 1, space, folder, todo, add)
        else:
            with _cluster(scheduler, workers) as executor:
                _handed_out(executor, space, folder, todo, add)
        left = folder.missing()
        if left and not len(left) < len(todo):
            for number in left:
                tries[number] += 1
            if max(tries.values()) >= TRIES:
                raise _given_up(folder, left)
        todo = left


def _given_up(folder: SweepFolder, left: list[int]) -> ScenarioError:
    return ScenarioError(
        [
            Problem(
                path="--workers",
                value=f"{len(left)} of {folder.n_parts} parts",
                rule=f"are not in {folder.path} although workers were given them {TRIES} times",
                fix="give workers more memory or use fewer; with --scheduler all must see the folder under this path",
            )
        ]
    )


def _shared_out(
    others: futures.Executor,
    n_others: int,
    space: Space,
    folder: SweepFolder,
    todo: list[int],
    add: Callable[[int], None],
) -> None:
    """Write parts here and in other processes, each taking the next one; those whose worker died stay missing.

    This process starts at once: the others load the engine first.
    """
    waiting = deque(todo)

    def work(write: Callable[[int], int | None]) -> None:
        try:
            while waiting:
                try:
                    number = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                rows = write(number)
                if rows is None:
                    return
                add(rows)
        except BaseException:
            waiting.clear()
            raise

    def elsewhere(number: int) -> int | None:
        """Rows gone through; None if the process died."""
        try:
            return others.submit(write_part, space, folder, number).result()
        except Exception as error:
            if isinstance(error, LlmsimError) or not _worker_died(error):
                raise
            return None

    with futures.ThreadPoolExecutor(n_others) as threads:
        ends = [threads.submit(work, elsewhere) for _ in range(n_others)]
        work(lambda number: write_part(space, folder, number))
    for end in ends:
        end.result()


def _handed_out(
    executor: Any, space: Space, folder: SweepFolder, todo: list[int], add: Callable[[int], None]
) -> None:
    """Hand parts to a cluster once; those whose worker died stay missing."""
    running = {executor.submit(write_part, space, folder, number) for number in todo}
    try:
        for one in futures.as_completed(running):
            try:
                add(one.result())
            except LlmsimError:
                raise
            except Exception as error:
                if not _worker_died(error):
                    raise
    except BaseException:
        for one in running:
            one.cancel()
        raise


def _worker_died(error: BaseException) -> bool:
    if isinstance(error, (BrokenProcessPool, futures.CancelledError)):
        return True
    return type(error).__name__ in (
        "KilledWorker",
        "CancelledError",
        "FutureCancelledError",
        "CommClosedError",
    )


def _watch_parent(parent: int) -> None:
    """End this process when the one that started it is gone: nobody will ask for its results."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _processes(workers: int) -> Iterator[futures.Executor]:
    # Spawned, not forked: the parent may hold threads, and a worker starts from the same state everywhere.
    context = multiprocessing.get_context("spawn")
    pool = futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_watch_parent, initargs=(os.getpid(),)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _DaskExecutor:
    """The executor of a dask client, and its way to wait."""

    def __init__(self, client: Any) -> None:
        self._executor = client.get_executor(pure=False, retries=TRIES)

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        """Hand out a call."""
        return self._executor.submit(function, *args)


@contextmanager
def _cluster(address: str, workers: int) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster  # untyped
    except ModuleNotFoundError:
        raise _no_scheduler(address, "needs dask.distributed", "pip install 'llmsim[sweep]'") from None
    try:
        if address == LOCAL:
            with (
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
                Client(cluster) as client,
            ):
                yield _DaskExecutor(client)
            return
        client = Client(address, timeout=CONNECT)
    except (OSError, ValueError, TimeoutError) as error:
        rule = f"cannot be reached ({type(error).__name__})"
        fix = "start one with: dask scheduler, and give its address such as tcp://host:8786"
        raise _no_scheduler(address, rule, fix) from None
    with client:
        yield _DaskExecutor(client)


def _no_scheduler(address: str, rule: str, fix: str) -> ScenarioError:
    return ScenarioError([Problem(path="--scheduler", value=address, rule=rule, fix=fix)])
