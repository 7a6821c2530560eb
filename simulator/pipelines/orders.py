"""The order of passes on each device, by pipeline schedule: what an event replay plays.

A pass is a phase, a place among the model's chunks (from the embedding, 0, to the head) and a micro-batch. Passes in
one group run side by side and end together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

Phase = Literal["forward", "backward", "inputs", "weights"]
Pass = tuple[Phase, int, int]
Order = list[tuple[Pass, ...]]


def one_f_one_b(p: int, v: int, m: int) -> list[Order]:
    """(Interleaved) 1F1B: warm-up, steady state, cool-down; chunks take turns with groups of p micro-batches."""
    total, group = v * m, p if v > 1 else 1

    def passes(phase: Phase, device: int) -> list[Pass]:
        found: list[Pass] = []
        for k in range(total):
            turn, within = divmod(k, group * v)
            chunk = within // group
            chunk = v - 1 - chunk if phase == "backward" else chunk
            found.append((phase, chunk * p + device, turn * group + within % group))
        return found

    orders = []
    for device in range(p):
        behind = p - device - 1
        warm_up = min(behind if v == 1 else 2 * behind + (v - 1) * p, total)
        there, back = passes("forward", device), passes("backward", device)
        order: Order = [(one,) for one in there[:warm_up]]
        for k in range(total - warm_up):
            order += [(there[warm_up + k],), (back[k],)]
        orders.append(order + [(one,) for one in back[total - warm_up :]])
    return orders


def gpipe(p: int, v: int, m: int) -> list[Order]:
    """All forward passes, then all backward ones, the last micro-batch first."""
    there: list[Order] = [[(("forward", i, j),) for j in range(m)] for i in range(p)]
    back: list[Order] = [[(("backward", i, j),) for j in reversed(range(m))] for i in range(p)]
    return [[*f, *b] for f, b in zip(there, back, strict=True)]


def _handcrafted(p: int, m: int, warm_up: Callable[[int], int], behind: Callable[[int], int]) -> list[Order]:
    """1F1B with gradients of weights that lie ``behind`` micro-batches behind those of inputs."""
    orders: list[Order] = []
    for i in range(p):
        begun = min(warm_up(i), m)
        order: Order = [(("forward", i, j),) for j in range(begun)]
        for j in range(m):
            order.append((("inputs", i, j),))
            if j >= behind(i):
                order.append((("weights", i, j - behind(i)),))
            if begun < m:
                order.append((("forward", i, begun),))
                begun += 1
        left = range(max(m - behind(i), 0), m)
        orders.append([*order, *((("weights", i, j),) for j in left)])
    return orders


def zb_h1(p: int, v: int, m: int) -> list[Order]:
    """ZB-H1: as many micro-batches in flight as 1F1B has on its first stage (arXiv:2401.10241, figure 2)."""
    return _handcrafted(p, m, lambda i: p - i, lambda i: i)


def zb_h2(p: int, v: int, m: int) -> list[Order]:
    """ZB-H2: forward passes fill the warm-up (arXiv:2401.10241, figure 3)."""
    return _handcrafted(p, m, lambda i: 2 * (p - i) - 1, lambda i: 2 * i)


def zb_v(p: int, v: int, m: int) -> list[Order]:
    """ZB-V: two chunks per device, the second on the way back (arXiv:2401.10241, section 6)."""
    return [_zb_v_device(p, m, device) for device in range(p)]


def _zb_v_device(p: int, m: int, device: int) -> Order:
    order: Order = []
    places = (device, 2 * p - 1 - device)
    done: dict[tuple[Phase, int], int] = {}

    def add(phase: Phase, chunk: int) -> None:
        number = done.get((phase, chunk), 0)
        done[phase, chunk] = number + 1
        order.append(((phase, places[chunk], number),))

    def both(chunk: int) -> None:
        add("inputs", chunk)
        add("weights", chunk)

    for _ in range(2 * (p - device) - 1):
        add("forward", 0)
    for _ in range(device):
        add("forward", 1)
        add("forward", 0)
    for _ in range(p - device):
        add("forward", 1)
        both(1)
    while done["forward", 1] < m:
        if done["forward", 0] < m:
            add("forward", 0)
        both(0)
        add("forward", 1)
        both(1)
    for _ in range(device):
        add("inputs", 0)
        add("inputs", 1)
    for _ in range(p - device):
        both(0)
    for chunk in (1, 0):
        for _ in range(done["inputs", chunk] - done["weights", chunk]):
            add("weights", chunk)
    return order


def dualpipe(p: int, v: int, m: int) -> list[Order]:
    """DualPipe: half of the micro-batches enter at either end (arXiv:2412.19437, figure 5)."""
    return [_dualpipe_device(p, m, device) for device in range(p)]


def _dualpipe_device(p: int, m: int, device: int) -> Order:
    order: Order = []
    near = min(device, p - 1 - device)
    far, half = p // 2 - near - 1, m // 2
    counts: dict[tuple[bool, bool], int] = {}
    put_off: list[tuple[int, int]] = []

    def place(forward: bool, way: int) -> tuple[int, int]:
        """Stage and micro-batch of the next pass; ``way`` 0 is the direction of the nearer end."""
        reverse = bool(way) != (device >= p // 2)
        number = counts.get((forward, reverse), 0)
        counts[forward, reverse] = number + 1
        return (p - 1 - device, half + number) if reverse else (device, number)

    def there(way: int) -> Pass:
        return ("forward", *place(True, way))

    def back(way: int, split: bool = False) -> Pass:
        at = place(False, way)
        if split:
            put_off.append(at)
        return ("inputs" if split else "backward", *at)

    def weights() -> Pass:
        return ("weights", *put_off.pop(0))

    order += [(there(0),) for _ in range(2 * far)]
    for _ in range(near + 1):
        order += [(there(0),), (there(1),)]
    for _ in range(far):
        order += [(back(1, split=True),), (weights(),), (there(1),)]
    for k in range(half - p + near + 1):
        # The two ranks in the middle have nothing to run beside at first.
        pair = (there(0), back(1))
        order += [(pair[0],), (pair[1],)] if k == 0 and far == 0 else [pair]
        order.append((there(1), back(0)))
    for _ in range(far):
        order += [(back(1),), (there(1), back(0))]
    for k in range(2 * (near + 1)):
        order.append((back(1 - k % 2, split=k > near),))
    for _ in range(far):
        order += [(weights(),), (back(0, split=True),)]
    return order + [(weights(),) for _ in range(len(put_off))]


ORDERS: Mapping[str, Callable[[int, int, int], list[Order]]] = {
    "1f1b": one_f_one_b,
    "gpipe": gpipe,
    "zb_h1": zb_h1,
    "zb_h2": zb_h2,
    "zb_v": zb_v,
    "dualpipe": dualpipe,
}


def problems_of(schedule: str, p: int, v: int, m: int) -> Iterator[str]:
    """What is wrong with a number of stages, chunks and micro-batches for a schedule, in words; raises nothing."""
    if schedule == "1f1b" and v > 1 and m % p:
        yield f"{m} micro-batches are no multiple of the {p} stages"
    if schedule not in ("1f1b", "zb_v") and v != 1:
        yield f"{schedule} has one chunk per stage, not {v}"
    if schedule == "zb_v" and v != 2:
        yield f"zb_v has two chunks per stage, not {v}"
    if schedule == "dualpipe" and (p % 2 or m % 2):
        yield f"dualpipe needs an even number of stages and micro-batches, not {p} and {m}"
    least = {"zb_h1": p, "zb_h2": 2 * p - 1, "zb_v": 2 * p - 1, "dualpipe": 2 * p}.get(schedule, 1)
    if m < least:
        yield f"{schedule} on {p} stages needs {least} micro-batches, not {m}"
