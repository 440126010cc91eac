"""Closed-loop load: so many connections, each sending its next request when its last has been answered."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence

import msgspec

from .connection import Connection, open_connection
from .sample import Sample
from .sse import AnswerReader


class Run(msgspec.Struct, kw_only=True):
    """What was measured: one sample for each request, and the time from the first sent to the last ended."""

    duration_s: float
    samples: list[Sample]


async def run_load(url: str, path: str, bodies: Sequence[bytes], concurrency: int, timeout_s: float) -> Run:
    """Send all of `bodies` over `concurrency` connections."""
    reader = AnswerReader()
    queue = iter(bodies)
    samples: list[Sample] = []
    connections = await _connect(url, min(concurrency, len(bodies)))
    started_s = time.perf_counter()
    async with asyncio.TaskGroup() as clients:
        for connection in connections:
            clients.create_task(_client(url, path, connection, queue, samples, reader, timeout_s))
    return Run(duration_s=time.perf_counter() - started_s, samples=samples)


async def _connect(url: str, count: int) -> list[Connection | None]:
    """Open the connections before the clock starts; one that fails is tried again by its client."""

    async def attempt() -> Connection | None:
        with contextlib.suppress(OSError):
            return await open_connection(url)
        return None

    return list(await asyncio.gather(*(attempt() for _ in range(count))))


async def _client(
    url: str,
    path: str,
    connection: Connection | None,
    queue: Iterator[bytes],
    samples: list[Sample],
    reader: AnswerReader,
    timeout_s: float,
) -> None:
    try:
        for body in queue:
            try:
                async with asyncio.timeout(timeout_s):
                    if connection is None or not connection.usable:
                        connection = await open_connection(url)
                    answer = await connection.post(path, body)
            except TimeoutError:
                samples.append(Sample(error=f"no whole answer within {timeout_s:g} s"))
                _close(connection)
            except OSError as error:
                samples.append(Sample(error=str(error) or type(error).__name__))
                _close(connection)
            else:
                samples.append(reader.read(answer))
    finally:
        _close(connection)


def _close(connection: Connection | None) -> None:
    if connection is not None:
        connection.close()
