"""Operators' questions and orders to the leading scheduler, and what is left of them when it dies."""

import msgspec
import nats.errors
import pytest

from sagellm.broker import Connection
from sagellm.management import Management
from sagellm.settings import Settings
from sagellm_schemas import (
    JSON,
    CancelAnswer,
    Cancelled,
    CancelOrder,
    ChangeOrder,
    EngineState,
    InstanceChanged,
    InstanceOrder,
    InstancesPage,
    InstancesQuery,
    InvalidRequest,
    NotFound,
    Outcome,
    PolicyQuery,
    PolicyView,
    QueuePage,
    QueueQuery,
    Registration,
    RequestChanged,
    RequestQuery,
    RequestsPage,
    RequestsQuery,
    RequestStatus,
    RequestView,
    SwitchOrder,
    Unavailable,
    encode,
    subjects,
)

from .fakes import MODEL, FakeReader, FakeWorker, SchedulerProcess, queue_is_empty, scheduling, until

HIGH, NORMAL, LOW = 1, 2, 3


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"policy": "priority"})


@pytest.fixture
async def reader(connection: Connection) -> FakeReader:
    return await FakeReader(connection).start()


class Operator:
    """Asks and orders."""

    def __init__(self, connection: Connection) -> None:
        self._management = Management(connection.nc)

    async def queue(self, **query: object) -> QueuePage:
        return await self._management.ask(subjects.MANAGE_QUEUE, QueueQuery(**query), QueuePage)

    async def order_of(self, **query: object) -> list[str]:
        return [request.id for request in (await self.queue(**query)).requests]

    async def request(self, request_id: str) -> RequestView:
        return await self._management.ask(subjects.MANAGE_REQUEST, RequestQuery(id=request_id), RequestView)

    async def requests(self, **query: object) -> RequestsPage:
        return await self._management.ask(subjects.MANAGE_REQUESTS, RequestsQuery(**query), RequestsPage)

    async def change(self, request_id: str, **changes: object) -> RequestChanged:
        order = ChangeOrder(id=request_id, **changes)
        return await self._management.ask(subjects.MANAGE_CHANGE, order, RequestChanged)

    async def cancel(self, *ids: str) -> CancelAnswer:
        return await self._management.ask(subjects.MANAGE_CANCEL, CancelOrder(ids=list(ids)), CancelAnswer)

    async def instances(self, **query: object) -> InstancesPage:
        return await self._management.ask(subjects.MANAGE_INSTANCES, InstancesQuery(**query), InstancesPage)

    async def instance(self, instance: str, action: str, reason: str = "") -> InstanceChanged:
        order = InstanceOrder(id=instance, action=action, reason=reason)
        return await self._management.ask(subjects.MANAGE_INSTANCE, order, InstanceChanged)

    async def register(self, **fields: object) -> Registration:
        return await self._management.ask(subjects.MANAGE_REGISTER, Registration(**fields), Registration)

    async def policy(self) -> PolicyView:
        return await self._management.ask(subjects.MANAGE_POLICY, PolicyQuery(), PolicyView)

    async def switch(self, **changes: object) -> PolicyView:
        return await self._management.ask(subjects.MANAGE_SWITCH, SwitchOrder(**changes), PolicyView)

    async def leads(self, term: int) -> bool:
        """Whether the leader of that term answers, and knows the queue."""
        try:
            await self.queue()
            return (await self.policy()).term == term
        except Unavailable:
            return False

    async def waits(self, *ids: str) -> bool:
        """Whether exactly these wait."""
        try:
            return sorted(await self.order_of()) == sorted(ids)
        except Unavailable:
            return False


@pytest.fixture
async def operator(connection: Connection) -> Operator:
    return Operator(connection)


async def test_the_queue_tells_its_order_the_start_of_each_and_why_it_waits(
    settings: Settings, reader: FakeReader, operator: Operator
) -> None:
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running")
        await worker.items.next()
        await reader.send("low", priority=LOW, user_id="somebody")
        await reader.send("high", priority=HIGH, ttft_slo_ms=1000.0)
        await until(lambda: operator.waits("low", "high"))
        page = await operator.queue()
        high, low = page.requests
        assert [(high.id, high.position), (low.id, low.position)] == [("high", 1), ("low", 2)]
        assert high.predicted_start_at <= low.predicted_start_at < low.predicted_first_token_at
        assert low.predicted_first_token_at < low.predicted_finish_at
        assert (page.total, page.more) == (2, False)
        assert high.reason.startswith("It goes next, but the only instance that takes work is full")
        assert low.reason.startswith(
            "1 request goes before it under priority (as LOW, it counts as if it had come 90 s later), and"
        )
        (queue,) = page.models
        assert (queue.model, queue.waiting, queue.running, queue.credits) == (MODEL, 2, 1, 1)
        assert await operator.order_of(user_id="somebody") == ["low"]
        assert await operator.order_of(priority="high") == ["high"]
        assert await operator.order_of(offset=1) == ["low"]
        page = await operator.queue(limit=1)
        assert ([request.id for request in page.requests], page.more, page.total) == (["high"], True, 2)


async def test_instances_that_take_no_work_are_named_with_the_reason(
    settings: Settings, reader: FakeReader, operator: Operator
) -> None:
    async with scheduling(settings):
        async with FakeWorker(settings, "w1") as first, FakeWorker(settings, "w2") as second:
            await until(lambda: _instances(operator, 2))
            first.state, second.state = EngineState.DRAINING, EngineState.ERROR
            await first.heartbeat()
            await second.heartbeat()
            await until(lambda: _taking_work(operator, 0))
            await reader.send("a")
            await until(lambda: operator.waits("a"))
            reason = (await operator.request("a")).reason
            assert "none of the 2 instances takes work: w1 is draining, w2 reports an error" in reason
        await until(lambda: _instances(operator, 0))
        assert (await operator.request("a")).reason == f"It goes next, but no instance serves {MODEL!r}."


async def test_one_request_is_told_from_the_queue_to_its_instance(
    settings: Settings, reader: FakeReader, operator: Operator
) -> None:
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("first")
        first = await worker.items.next()
        await reader.send("second")
        await until(lambda: operator.waits("second"))
        waiting = await operator.request("second")
        assert (waiting.status, waiting.position) == (RequestStatus.QUEUED, 1)
        await worker.tell(first, [7, 8, 9])
        await reader.events.next()
        running = await operator.request("first")
        assert (running.status, running.instance, running.attempt) == (RequestStatus.RUNNING, "w1", first.attempt)
        assert (running.output_tokens, running.reason) == (3, "")
        page = await operator.requests(status="running")
        assert ([request.id for request in page.requests], page.total) == (["first"], 1)
        assert [request.id for request in (await operator.requests()).requests] == ["first", "second"]
        await worker.end(first)
        await reader.end_of("first")
        with pytest.raises(NotFound, match=r"'first'.*has ended"):
            await operator.request("first")


async def test_a_new_priority_counts_at_once_and_under_the_next_leader(
    settings: Settings, connection: Connection, reader: FakeReader, operator: Operator
) -> None:
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running", can_be_preempted=False)
        running = await worker.items.next()
        for name in ("a", "b", "c"):
            await reader.send(name)
        await until(lambda: operator.waits("a", "b", "c"))
        changed = await operator.change("c", priority="high")
        assert (changed.request.position, changed.request.priority, changed.request.changed) == (1, HIGH, True)
        assert changed.effect == "it has a new place in the queue"
        assert await operator.order_of() == ["c", "a", "b"]
        async with scheduling(settings):
            await leader.kill()
            await until(lambda: operator.leads(2))
            assert await operator.order_of() == ["c", "a", "b"]
            worker.auto = True
            await worker.end(running)
            items = await worker.items.take(3)
            assert [(item.request.id, item.request.priority) for item in items] == [
                ("c", HIGH),
                ("a", 2),
                ("b", 2),
            ]
            await until(lambda: queue_is_empty(connection))
            await until(lambda: _no_record(connection))


async def test_a_request_that_was_late_is_in_time_with_a_later_deadline(
    settings: Settings, reader: FakeReader, operator: Operator
) -> None:
    settings = settings.model_copy(update={"policy": "slo_aware"})
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running")
        await worker.items.next()
        await reader.send("hopeless", ttft_slo_ms=0.01)
        await reader.send("relaxed", ttft_slo_ms=600_000.0)
        await until(lambda: operator.waits("hopeless", "relaxed"))
        assert await operator.order_of() == ["relaxed", "hopeless"]
        assert "it is late: its deadline cannot be met" in (await operator.request("hopeless")).reason
        await operator.change("hopeless", ttft_slo_ms=60_000.0)
        assert await operator.order_of() == ["hopeless", "relaxed"]
        await operator.change("hopeless", ttft_slo_ms=None)
        view = await operator.request("hopeless")
        assert (view.ttft_slo_ms, view.slo_deadline_ms) == (None, None)


async def test_a_running_request_keeps_its_place_and_its_change_counts_when_it_is_dispatched_again(
    settings: Settings, reader: FakeReader, operator: Operator
) -> None:
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "w1", capacity=1) as first:
        await reader.send("a", priority=LOW)
        item = await first.items.next()
        changed = await operator.change("a", priority="high")
        assert "it runs already, on w1, and goes on there" in changed.effect
        async with scheduling(settings), FakeWorker(settings, "w2", capacity=1) as second:
            await leader.kill()
            await until(lambda: operator.leads(2))
            view = await operator.request("a")
            assert (view.status, view.attempt, view.priority) == (RequestStatus.RUNNING, item.attempt, HIGH)
            assert first.items.empty()
            first.state = EngineState.DRAINING
            await first.heartbeat()
            await until(lambda: _taking_work(operator, 1))
            await first.end(item, Outcome.RETURNED)
            again = await second.items.next()
            assert (again.request.id, again.request.priority) == ("a", HIGH)
            assert again.attempt > item.attempt


async def test_requests_are_cancelled_wherever_they_are(
    settings: Settings, connection: Connection, reader: FakeReader, operator: Operator
) -> None:
    async with scheduling(settings), FakeWorker(settings, "w1", capacity=1) as worker:
        heard = await connection.nc.subscribe(subjects.CANCEL)
        await connection.nc.flush()
        await reader.send("running")
        await worker.items.next()
        await reader.send("waiting")
        await until(lambda: operator.waits("waiting"))
        answer = await operator.cancel("waiting", "running", "unheard-of")
        was = [(ended.id, ended.was, ended.instance) for ended in answer.cancelled]
        assert was == [("waiting", RequestStatus.QUEUED, ""), ("running", RequestStatus.RUNNING, "w1")]
        assert answer.unknown == ["unheard-of"]
        assert isinstance(await reader.end_of("waiting"), Cancelled)
        assert b"running" in (await heard.next_msg(timeout=5)).data
        assert await operator.order_of() == []


async def test_a_closed_instance_gets_nothing_more_also_from_the_next_leader(
    settings: Settings, reader: FakeReader, operator: Operator
) -> None:
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "w1") as worker:
        await until(lambda: _taking_work(operator, 1))
        changed = await operator.instance("w1", "close", "its fan is broken")
        assert changed.effect.endswith("nothing runs there")
        await reader.send("a")
        await until(lambda: operator.waits("a"))
        assert "w1 is closed by an operator (its fan is broken)" in (await operator.request("a")).reason
        async with scheduling(settings):
            await leader.kill()
            await until(lambda: operator.leads(2))
            await until(lambda: operator.waits("a"))
            (view,) = (await operator.instances(id="w1")).instances
            assert (view.takes_work, view.closed) == (False, "its fan is broken")
            worker.silent = worker.deaf = True
            await until(lambda: _instances(operator, 0))
            worker.silent = worker.deaf = False
            await until(lambda: _instances(operator, 1))
            assert (await operator.instances()).instances[0].closed == "its fan is broken"
            assert worker.items.empty()
            changed = await operator.instance("w1", "open")
            assert changed.instance is not None
            assert changed.instance.takes_work
            assert (await worker.items.next()).request.id == "a"


async def test_a_drained_instance_is_told_to_leave(settings: Settings, operator: Operator) -> None:
    async with scheduling(settings), FakeWorker(settings, "w1") as worker:
        await until(lambda: _taking_work(operator, 1))
        changed = await operator.instance("w1", "drain")
        assert changed.effect == "it takes nothing new, finishes what it runs, and leaves; nothing runs there"
        while not (order := await worker.controls.next()).leave:
            pass
        assert order.drain
        worker.deaf = True
        with pytest.raises(Unavailable, match="w1 does not answer"):
            await operator.instance("w1", "drain")


async def test_the_policy_switches_while_requests_wait_and_stays_until_it_is_reset(
    settings: Settings, reader: FakeReader, operator: Operator
) -> None:
    async with SchedulerProcess(settings) as leader, FakeWorker(settings, "w1", capacity=1) as worker:
        await reader.send("running")
        await worker.items.next()
        for name, priority in (("low", LOW), ("normal", NORMAL), ("high", HIGH)):
            await reader.send(name, priority=priority)
        await until(lambda: operator.waits("low", "normal", "high"))
        assert await operator.order_of() == ["high", "normal", "low"]
        view = await operator.switch(policy="fifo", routing="power_of_two")
        assert (view.policy, view.routing, view.policy_setting) == ("fifo", "power_of_two", "priority")
        assert view.switched_at is not None
        assert await operator.order_of() == ["low", "normal", "high"]
        async with scheduling(settings):
            await leader.kill()
            await until(lambda: operator.leads(2))
            view = await operator.policy()
            assert (view.policy, view.routing) == ("fifo", "power_of_two")
            assert await operator.order_of() == ["low", "normal", "high"]
            view = await operator.switch(policy=None)
            assert (view.policy, view.routing) == ("priority", "power_of_two")
            assert await operator.order_of() == ["high", "normal", "low"]
            view = await operator.switch(routing=None)
            assert (view.routing, view.switched_at) == ("load_balanced", None)


async def test_adaptive_tells_which_policy_it_uses_and_why(settings: Settings, operator: Operator) -> None:
    async with scheduling(settings.model_copy(update={"policy": "adaptive"})):
        await until(lambda: operator.leads(1))
        view = await operator.policy()
        assert (view.policy, view.active, view.reason) == ("adaptive", "priority", "nothing is known yet")
        assert {"fair", "adaptive"} <= set(view.policies)
        assert {"prefix_aware", "load_balanced"} <= set(view.routings)


async def test_registered_servers_are_kept_until_they_are_taken_out(
    settings: Settings, operator: Operator
) -> None:
    async with SchedulerProcess(settings) as leader:
        await until(lambda: operator.leads(1))
        made = await operator.register(url="http://127.0.0.1:1/v1/", model="m", price_per_hour=2.5)
        assert made.url == "http://127.0.0.1:1"
        assert await operator.register(url="http://127.0.0.1:1", model="m", price_per_hour=2.5) == made
        async with scheduling(settings):
            await leader.kill()
            await until(lambda: operator.leads(2))
            assert (await operator.instances()).servers == [made]
            changed = await operator.instance(made.id, "drain")
            assert changed.effect == "it (http://127.0.0.1:1) is registered no more"
            assert (await operator.instances()).servers == []


async def test_what_is_wrong_is_refused_with_a_sentence(settings: Settings, operator: Operator) -> None:
    with pytest.raises(Unavailable, match="no scheduler leads"):
        await operator.policy()
    async with scheduling(settings):
        await until(lambda: _has_read_the_queue(operator))
        for asked, message in (
            (operator.request("b"), "no request 'b'"),
            (operator.instance("w9", "close"), "no instance 'w9'"),
            (operator.instance("w9", "drain"), "no instance 'w9'"),
        ):
            with pytest.raises(NotFound, match=message):
                await asked
        for asked, message in (
            (operator.queue(limit=1001), "limit must be 0 to 1000"),
            (operator.queue(offset=-1), "offset must be at least 0"),
            (operator.queue(priority="urgent"), "priority must be one of CRITICAL"),
            (operator.requests(status="asleep"), "Invalid enum value"),
            (operator.cancel(), "give 1 to 10000 ids"),
            (operator.change("a"), "give priority, ttft_slo_ms or slo_deadline_ms"),
            (operator.change("a", ttft_slo_ms=-1.0), "ttft_slo_ms must be a number greater than 0"),
            (operator.switch(policy="lifo"), "no policy called 'lifo'; choose one of adaptive"),
            (operator.switch(routing="nearest"), "no routing strategy called 'nearest'"),
            (operator.register(url="ftp://x"), "url must be the base URL"),
            (operator.register(url="http://x", max_concurrent_requests=0), "must be at least 1"),
        ):
            with pytest.raises(InvalidRequest, match=message):
                await asked


async def test_an_answer_comes_in_the_format_of_the_question(
    settings: Settings, connection: Connection, operator: Operator
) -> None:
    async with scheduling(settings):
        await until(lambda: operator.leads(1))
        for question in (b"", b"{}", encode(QueueQuery(), JSON)):
            reply = await connection.nc.request(subjects.MANAGE_QUEUE, question, timeout=5)
            assert msgspec.json.decode(reply.data)["requests"] == []
        reply = await connection.nc.request(subjects.MANAGE_REQUEST, b'{"id": 5}', timeout=5)
        error = msgspec.json.decode(reply.data)["error"]
        assert (error["code"], error["param"]) == ("invalid_request", "id")
    with pytest.raises(nats.errors.NoRespondersError):
        await connection.nc.request(subjects.MANAGE_QUEUE, b"", timeout=5)


async def _has_read_the_queue(operator: Operator) -> bool:
    try:
        await operator.request("nothing")
    except NotFound:
        return True
    except Unavailable:
        return False
    raise AssertionError


async def _instances(operator: Operator, count: int) -> bool:
    try:
        return len((await operator.instances()).instances) == count
    except Unavailable:
        return False


async def _taking_work(operator: Operator, count: int) -> bool:
    try:
        return sum(instance.takes_work for instance in (await operator.instances()).instances) == count
    except Unavailable:
        return False


async def _no_record(connection: Connection) -> bool:
    """Whether nothing is kept of single requests."""
    info = await connection.js.stream_info(f"KV_{subjects.ATTEMPTS_BUCKET}", subjects_filter=">")
    return not any(".request." in subject for subject in info.state.subjects or {})
