"""Independent work spread over the accelerators of a process: a copy of the weights on each, items by turns."""

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")


def accelerators() -> list[Any]:
    """Those of this process, where there are several; none of CPUs, which share their cores."""
    devices = jax.local_devices()
    return devices if len(devices) > 1 and devices[0].platform != "cpu" else []


def fetched(arrays: Iterable[jax.Array]) -> Iterator[np.ndarray]:
    """Each on the host, while the device computes the next."""
    for array, _ in itertools.pairwise(itertools.chain(arrays, [None])):
        yield np.asarray(array)


def by_turns(work: Callable[[int, Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """`work(k % count, item)` of the k-th item, in the items' order. Each of the `count` has a thread, which is given
    one item ahead; a single one works here, when it is asked."""
    if count == 1:
        yield from (work(0, item) for item in items)
        return
    with contextlib.ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(count)]
        ready: collections.deque = collections.deque()
        for k, item in enumerate(items):
            ready.append(threads[k % count].submit(work, k % count, item))
            if len(ready) >= 2 * count:
                yield ready.popleft().result()
        while ready:
            yield ready.popleft().result()
