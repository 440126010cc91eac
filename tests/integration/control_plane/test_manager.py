"""A manager over the whole pipeline: order, cancelling, draining, switching, and failures."""

import asyncio
from pathlib import Path

import pytest

from sagellm import (
    ControlPlaneManager,
    ExecutionInstance,
    ExecutionInstanceType,
    RequestPriority,
    RequestStatus,
    RequestType,
)
from sagellm.settings import Settings
from sagellm_schemas import (
    InvalidRequest,
    ModelNotFound,
    SageError,
    SettingsError,
    Unavailable,
    UnsupportedParameter,
)

from .conftest import MODEL, WORDS, Managing, asking, mock

LONG = 10_000
"""Tokens of an answer that no test waits for."""


async def until_running(manager: ControlPlaneManager, request_id: str) -> None:
    """Until the first token of a request has come, or a heartbeat has named it."""
    async with asyncio.timeout(20):
        while await manager.get_request_status(request_id) is not RequestStatus.RUNNING:
            await asyncio.sleep(0.005)


async def test_a_request_is_answered_and_counted(managing: Managing) -> None:
    async with managing(mock()) as manager:
        request = asking(slo_deadline_ms=60_000, tags=["a", "b"], priority="high")
        result = await manager.process_request(request)
        assert result.text.startswith(WORDS)
        assert result.usage.completion_tokens == len(result.token_ids) == request.tokens_generated == 8
        assert result.ttft_ms is not None
        assert result.ttft_ms <= result.latency_ms
        metrics = manager.get_metrics()
        assert metrics.completed_requests == 1
        assert metrics.slo_compliance_by_priority == {"HIGH": 1.0}


async def test_the_only_model_is_meant_where_none_is_named(managing: Managing) -> None:
    async with managing(mock()) as manager:
        assert (await manager.process_request(asking(model_name=None))).status is RequestStatus.COMPLETED
        manager.register_instance(mock("other", model_name="another"))
        with pytest.raises(ModelNotFound, match=f"{MODEL}, another"):
            await manager.submit_request(asking(model_name=None))


async def test_critical_requests_overtake_those_that_wait(managing: Managing) -> None:
    async with managing(mock(at_once=1, tpot_ms=1), scheduling_policy="priority") as manager:
        running = await manager.submit_request(asking(max_tokens=LONG, can_be_preempted=False))
        await until_running(manager, running)
        ended: list[str] = []

        async def ask(priority: RequestPriority) -> None:
            await manager.process_request(asking(priority=priority))
            ended.append(priority.name)

        async with asyncio.TaskGroup() as tasks:
            for priority in (RequestPriority.BACKGROUND, RequestPriority.NORMAL, RequestPriority.CRITICAL):
                tasks.create_task(ask(priority))
            while manager.get_metrics().queued_requests < 3:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0)
            await manager.cancel_request(running)
        assert ended == ["CRITICAL", "NORMAL", "BACKGROUND"]


async def test_a_critical_request_sends_another_back_and_both_answers_are_whole(managing: Managing) -> None:
    async with managing(mock(at_once=1, tpot_ms=2), scheduling_policy="priority") as manager:
        whole = await manager.process_request(asking(max_tokens=1000))
        victim = await manager.submit_request(asking(max_tokens=1000, priority=RequestPriority.LOW))
        await until_running(manager, victim)
        critical = await manager.process_request(asking(priority=RequestPriority.CRITICAL))
        assert critical.status is RequestStatus.COMPLETED
        assert await manager.get_request_status(victim) is not RequestStatus.COMPLETED
        result = await manager.get_result(victim)
        assert (result.text, result.token_ids) == (whole.text, whole.token_ids)
        assert result.usage.completion_tokens == 1000


async def test_a_user_beyond_the_bounds_of_the_settings_is_told_when_to_come_again(managing: Managing) -> None:
    settings = Settings.load(
        heartbeat_interval_s=0.05, heartbeat_timeout_s=1.0, storage="memory", user_requests_per_minute=1
    )
    async with managing(mock(), settings=settings) as manager:
        # What comes while the scheduler is still seeing what the queue held before is not judged.
        async with asyncio.timeout(20):
            while (result := await manager.process_request(asking(user_id="ann"))).error is None:
                pass
        assert result.status is RequestStatus.FAILED
        assert result.error.code == "rate_limit_exceeded"
        assert 0 < (result.error.retry_after_s or 0) <= 60
        assert (await manager.process_request(asking(user_id="bob"))).status is RequestStatus.COMPLETED


async def test_cancelling_ends_what_runs_what_waits_and_nothing_else(managing: Managing) -> None:
    async with managing(mock(at_once=1, tpot_ms=1)) as manager:
        running = await manager.submit_request(asking(max_tokens=LONG))
        await until_running(manager, running)
        waiting = await manager.submit_request(asking())
        assert await manager.get_request_status(waiting) is RequestStatus.QUEUED
        for request_id in (waiting, running):
            assert await manager.cancel_request(request_id)
            assert (await manager.get_result(request_id)).status is RequestStatus.CANCELLED
            assert not await manager.cancel_request(request_id)
        assert not await manager.cancel_request("unknown")
        assert (await manager.process_request(asking())).status is RequestStatus.COMPLETED
        assert manager.get_metrics().cancelled_requests == 2


async def test_requests_wait_for_an_instance_that_is_registered_but_not_ready(managing: Managing) -> None:
    late = ExecutionInstance(instance_id="vllm", model_name=MODEL, host="127.0.0.1", port=1)
    async with managing(late) as manager:
        waiting = await manager.submit_request(asking())
        cancelled = await manager.submit_request(asking())
        assert await manager.get_request_status(waiting) is RequestStatus.PENDING
        assert await manager.cancel_request(cancelled)
        manager.register_instance(mock())
        assert (await manager.get_result(waiting)).status is RequestStatus.COMPLETED


async def test_requests_of_a_model_that_cannot_be_loaded_fail_with_the_reason(
    managing: Managing, tmp_path: Path
) -> None:
    broken = mock(metadata={"engine": "mock", "model": str(tmp_path)})
    async with managing(broken) as manager:
        held = await manager.process_request(asking())
        late = await manager.process_request(asking())
        for result in (held, late):
            assert result.status is RequestStatus.FAILED
            with pytest.raises(SageError, match=str(tmp_path)):
                result.raise_for_status()
        assert not manager.get_instances()[0].is_healthy


async def test_a_request_of_a_model_that_nobody_serves_fails(managing: Managing) -> None:
    async with managing(mock()) as manager:
        result = await manager.process_request(asking(model_name="unheard-of"))
        assert result.error is not None
        assert result.error.code == "model_not_found"


async def test_a_drained_instance_finishes_and_takes_nothing_new(managing: Managing) -> None:
    async with managing(mock("one", tpot_ms=1)) as manager:
        running = await manager.submit_request(asking(max_tokens=200))
        await until_running(manager, running)
        assert manager.start_engine_drain("one")
        async with asyncio.timeout(20):
            while manager.get_instances()[0].is_available:
                await asyncio.sleep(0.005)
        waiting = await manager.submit_request(asking())
        stopping = asyncio.create_task(manager.stop_engine_gracefully("one", timeout=20))
        assert (await manager.get_result(running)).status is RequestStatus.COMPLETED
        assert await stopping
        assert await manager.get_request_status(waiting) is RequestStatus.QUEUED
        manager.register_instance(mock("two"))
        assert (await manager.get_result(waiting)).status is RequestStatus.COMPLETED
        assert [instance.instance_id for instance in manager.get_instances()] == ["two"]


async def test_what_an_instance_cannot_finish_in_time_goes_on_elsewhere(managing: Managing) -> None:
    async with managing(mock("one", tpot_ms=2)) as manager:
        running = await manager.submit_request(asking(max_tokens=300))
        await until_running(manager, running)
        manager.register_instance(mock("two"))
        assert not await manager.stop_engine_gracefully("one", timeout=0.05)
        result = await manager.get_result(running)
        assert result.status is RequestStatus.COMPLETED
        assert result.usage.completion_tokens == len(result.token_ids) == 300
        assert result.text == (WORDS * 300)[: len(result.text)]


async def test_an_instance_that_is_taken_out_is_gone(managing: Managing) -> None:
    async with managing(mock("one"), mock("two")) as manager:
        assert manager.unregister_instance("one")
        assert not manager.unregister_instance("one")
        assert (await manager.process_request(asking())).status is RequestStatus.COMPLETED
        with pytest.raises(InvalidRequest, match="registered: two"):
            await manager.stop_engine_gracefully("one")


async def test_the_policy_changes_while_requests_wait_and_none_is_lost(managing: Managing) -> None:
    async with managing(mock(at_once=1, tpot_ms=1), scheduling_policy="fifo") as manager:
        running = await manager.submit_request(asking(max_tokens=LONG, can_be_preempted=False))
        await until_running(manager, running)
        low = await manager.submit_request(asking(priority=RequestPriority.LOW, max_tokens=50))
        high = await manager.submit_request(asking(priority=RequestPriority.CRITICAL))
        manager.update_policy("priority")
        # It has switched when it answers for a request that was submitted after the order.
        assert (await manager.process_request(asking(model_name="unheard-of"))).error is not None
        await manager.cancel_request(running)
        assert (await manager.get_result(high)).status is RequestStatus.COMPLETED
        assert await manager.get_request_status(low) is not RequestStatus.COMPLETED
        assert (await manager.get_result(low)).status is RequestStatus.COMPLETED
        assert manager.get_status()["scheduling_policy"] == "priority"
        with pytest.raises(SettingsError, match="no policy called 'magic'"):
            manager.update_policy("magic")


async def test_a_new_manager_begins_with_its_own_policy_whatever_an_earlier_one_had_switched_to(
    managing: Managing, tmp_path: Path
) -> None:
    async with managing(mock(), scheduling_policy="fifo", state_dir=tmp_path) as manager:
        manager.update_policy("fair")
        await manager.process_request(asking())
    async with managing(mock(at_once=1, tpot_ms=1), scheduling_policy="priority", state_dir=tmp_path) as manager:
        running = await manager.submit_request(asking(max_tokens=LONG))
        await until_running(manager, running)
        low = await manager.submit_request(asking(priority=RequestPriority.LOW, max_tokens=50))
        high = await manager.submit_request(asking(priority=RequestPriority.CRITICAL))
        assert (await manager.process_request(asking(model_name="unheard-of"))).error is not None
        await manager.cancel_request(running)
        assert (await manager.get_result(high)).status is RequestStatus.COMPLETED
        assert await manager.get_request_status(low) is not RequestStatus.COMPLETED


async def test_stopping_cancels_what_is_open_and_a_manager_starts_again(managing: Managing) -> None:
    async with managing(mock(at_once=1, tpot_ms=1)) as manager:
        running = await manager.submit_request(asking(max_tokens=LONG))
        await until_running(manager, running)
        await manager.stop()
        assert await manager.get_request_status(running) is RequestStatus.CANCELLED
        await manager.stop()
        with pytest.raises(Unavailable, match="start"):
            await manager.submit_request(asking())
        await manager.start()
        with pytest.raises(InvalidRequest, match="runs already"):
            await manager.start()
        assert (await manager.process_request(asking())).status is RequestStatus.COMPLETED


async def test_when_the_scheduler_dies_requests_fail_with_the_reason(
    managing: Managing, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = asyncio.Event()

    async def die(settings: Settings, stop: asyncio.Event) -> None:
        await dying.wait()
        raise SageError("the scheduler tripped")

    monkeypatch.setattr("sagellm.control_plane.manager.run_scheduler", die)
    async with managing(mock()) as manager:
        request_id = await manager.submit_request(asking())
        dying.set()
        with pytest.raises(SageError, match="the scheduler tripped"):
            (await manager.get_result(request_id)).raise_for_status()
        await manager.stop()
        assert manager.get_status()["running"] is False


async def test_a_manager_joins_a_nats_server_that_runs(settings: Settings, managing: Managing) -> None:
    async with managing(mock(), settings=settings, nats_url=settings.nats_url) as manager:
        assert (await manager.process_request(asking())).status is RequestStatus.COMPLETED


async def test_a_nats_server_that_is_not_there_is_one_sentence() -> None:
    settings = Settings.load(nats_connect_timeout_s=0.2)
    manager = ControlPlaneManager(settings=settings, nats_url="nats://127.0.0.1:1")
    with pytest.raises(SageError, match="nothing answers as NATS"):
        await manager.start()


async def test_what_cannot_be_asked_for_is_refused(managing: Managing) -> None:
    async with managing(mock()) as manager:
        await manager.process_request(asking(request_id="once"))
        with pytest.raises(InvalidRequest, match="has been used"):
            await manager.submit_request(asking(request_id="once"))
        with pytest.raises(UnsupportedParameter, match="embeddings"):
            await manager.submit_request(asking(request_type=RequestType.EMBEDDING))
        with pytest.raises(InvalidRequest, match="priority must be one of"):
            await manager.submit_request(asking(priority="urgent"))
        with pytest.raises(InvalidRequest, match="slo_deadline_ms"):
            await manager.submit_request(asking(slo_deadline_ms=-1))
        with pytest.raises(InvalidRequest, match="no request 'never'"):
            await manager.get_result("never")
        assert await manager.get_request_status("never") is None


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"metadata": {"engine": "abacus"}}, InvalidRequest),
        ({"metadata": {"engine": "mock", "mock_tpot_ms": -1}}, SettingsError),
        ({"metadata": {}, "port": 0}, InvalidRequest),
        ({"model_name": ""}, InvalidRequest),
        ({"max_concurrent_requests": 0}, InvalidRequest),
        ({"instance_type": ExecutionInstanceType.EMBEDDING}, UnsupportedParameter),
        ({"instance_type": ExecutionInstanceType.LLM_EMBEDDING}, UnsupportedParameter),
    ],
)
def test_an_instance_that_cannot_be_is_refused(fields: dict[str, object], error: type[SageError]) -> None:
    manager = ControlPlaneManager()
    with pytest.raises(error):
        manager.register_instance(mock(**fields))
    assert manager.register_instance(mock())
    with pytest.raises(InvalidRequest, match="registered already"):
        manager.register_instance(mock())


def test_options_that_are_not_supported_are_not_ignored() -> None:
    with pytest.raises(SettingsError, match="auto-scaling is not supported"):
        ControlPlaneManager(enable_auto_scaling=True)
    with pytest.warns(UserWarning, match="not separated"):
        ControlPlaneManager(enable_pd_separation=True)
    with pytest.warns(UserWarning, match="enable_monitoring"):
        ControlPlaneManager(enable_monitoring=False)
    with pytest.raises(SettingsError, match="no policy called"):
        ControlPlaneManager(scheduling_policy="magic")
    with pytest.raises(SettingsError, match="called 'magic'"):
        ControlPlaneManager(routing_strategy="magic")
