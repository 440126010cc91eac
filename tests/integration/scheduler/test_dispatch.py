"""From the durable queue to a worker and back."""

from .fakes import FakeReader, FakeWorker, outstanding, scheduling, until

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm_schemas import Finished


async def test_a_request_is_dispatched_and_leaves_the_queue_when_it_has_ended(
    settings: Settings, connection: Connection
) -> None:
    reader = await FakeReader(connection).start()
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await reader.send("a")
        item = await worker.items.next()
        assert item.request.id == "a"
        assert await outstanding(connection) == 1
        await worker.end(item)
        assert isinstance(await reader.end_of("a"), Finished)
        await until(lambda: _is_empty(connection))


async def _is_empty(connection: Connection) -> bool:
    return await outstanding(connection) == 0
