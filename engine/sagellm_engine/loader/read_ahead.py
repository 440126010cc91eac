"""Reading the weights of a checkpoint in order, a few ahead in threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from sagellm_engine.weights import Weight

_MAX_THREADS = 8


def read_ahead(reads: Iterable[tuple[str, Callable[[], Weight]]]) -> Iterator[tuple[str, Weight]]:
    """Each name with what its function returns; as many are under way as the machine has cores, up to 8."""
    threads = min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    ahead: deque[tuple[str, Future[Weight]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        for name, read in reads:
            ahead.append((name, pool.submit(read)))
            if len(ahead) > threads:
                name_of_first, first = ahead.popleft()
                yield name_of_first, first.result()
        for name, weight in ahead:
            yield name, weight.result()
