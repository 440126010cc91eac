import asyncio

from sagellm.ingress.disconnect import DisconnectWatch


async def test_a_disconnect_is_noticed_whatever_comes_before_it():
    queue: asyncio.Queue[str] = asyncio.Queue()
    gone = asyncio.Event()

    async def receive() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"type": await queue.get()}

    with DisconnectWatch(receive, gone.set, asyncio.get_running_loop()):
        queue.put_nowait("http.request")
        await asyncio.sleep(0.001)
        assert not gone.is_set()
        queue.put_nowait("http.disconnect")
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_watch_that_ends_leaves_nothing_behind():
    event = asyncio.Event()
    gone = asyncio.Event()

    async def receive() -> dict[str, str]:
        await event.wait()
        return {"type": "http.disconnect"}

    with DisconnectWatch(receive, gone.set, asyncio.get_running_loop()):
        await asyncio.sleep(0)
    event.set()
    await asyncio.sleep(0)
    assert not gone.is_set()
    assert not event._waiters
    assert asyncio.all_tasks() == {asyncio.current_task()}
