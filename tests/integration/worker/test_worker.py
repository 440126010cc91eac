"""A worker with the mock engine on a real NATS server."""

import asyncio
import itertools
import socket

import httpx
import nats.js.errors
import pytest

from sagellm.broker import Connection
from sagellm.settings import Settings
from sagellm.worker import run
from sagellm.worker.engines.mock import MockEngine
from sagellm.worker.service import Worker
from sagellm_engine.contract import StepOutput
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import (
    JSON,
    MSGPACK,
    Cancelled,
    ChatMessage,
    Codec,
    EngineError,
    EngineState,
    Failed,
    Finished,
    FinishReason,
    InstanceInfo,
    ModelCard,
    ModelLoadError,
    Outcome,
    SamplingParams,
    Tokens,
    subjects,
)

from .driver import Driver, working

FIVE = SamplingParams(max_tokens=5)


async def test_a_worker_that_is_told_to_leave_finishes_what_it_runs_and_ends(
    mock: Settings, driver: Driver
) -> None:
    settings = mock.model_copy(update={"mock_tpot_ms": 5.0, "drain_timeout_s": 20.0})
    running = asyncio.create_task(run(settings, asyncio.Event()))
    await driver.state(EngineState.READY)
    await driver.give("a", sampling=SamplingParams(max_tokens=50))
    await driver.tokens("a")
    report = await driver.control(term=1, drain=True, leave=True)
    assert report.heartbeat.state is EngineState.DRAINING
    assert (await driver.ended("a")).usage.completion_tokens == 50
    async with asyncio.timeout(20):
        await running


async def test_an_answer_comes_token_by_token_and_then_the_end(slow: Settings, driver: Driver) -> None:
    async with working(slow, driver):
        await driver.give("a", sampling=FIVE, attempt=3)
        ended = await driver.ended("a", 3)
    *tokens, finished = driver.events_of("a")
    assert all(isinstance(event, Tokens) and event.attempt == 3 for event in tokens)
    assert [event.offset for event in tokens] == [0, 1, 2, 3, 4]
    assert driver.text_of("a") == "The quick brown fox jumps"
    assert isinstance(finished, Finished)
    assert finished.finish_reason is FinishReason.LENGTH
    assert ended.outcome is Outcome.FINISHED
    assert ended.usage == finished.usage
    assert finished.usage.completion_tokens == 5


async def test_steps_faster_than_frames_share_them_but_a_first_token_waits_for_nothing(
    mock: Settings, driver: Driver
) -> None:
    async with working(mock, driver):
        await driver.give("a", sampling=SamplingParams(max_tokens=500))
        await driver.ended("a")
    *tokens, _ = driver.events_of("a")
    assert len(tokens[0].token_ids) == 1
    assert len(tokens) < 500
    offsets = list(itertools.accumulate((len(event.token_ids) for event in tokens), initial=0))
    assert [event.offset for event in tokens] == offsets[:-1]
    assert offsets[-1] == 500


async def test_one_step_of_many_requests_is_one_frame_for_their_reader(slow: Settings, driver: Driver) -> None:
    async with working(slow, driver):
        for name in "abc":
            await driver.give(name)
        await driver.frames.find(lambda seen: {e.id for e in seen[1].events} == set("abc"))


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
async def test_frames_are_in_the_format_of_the_request(mock: Settings, driver: Driver, content_type: str) -> None:
    async with working(mock, driver):
        await driver.give("a", sampling=FIVE, reply_format=content_type)
        await driver.ended("a")
    assert {seen for seen, _ in driver.frames.seen} == {content_type}


async def test_a_request_that_does_not_stream_gets_one_frame_with_everything(
    mock: Settings, driver: Driver
) -> None:
    async with working(mock, driver):
        await driver.give("a", sampling=SamplingParams(max_tokens=5, logprobs=1), stream=False)
        await driver.ended("a")
    ((_, frame),) = driver.frames.seen
    tokens, finished = frame.events
    assert tokens.text == "The quick brown fox jumps"
    assert len(tokens.token_ids) == len(tokens.logprobs) == 5
    assert isinstance(finished, Finished)


async def test_an_answer_larger_than_a_message_may_be_comes_in_more_frames(mock: Settings, driver: Driver) -> None:
    sampling = SamplingParams(max_tokens=12_000, logprobs=1)
    async with working(mock, driver):
        await driver.give("a", sampling=sampling, stream=False, reply_format=JSON)
        await driver.ended("a")
    tokens = [event for event in driver.events_of("a") if isinstance(event, Tokens)]
    assert len(tokens) > 1
    sizes = [len(event.token_ids) for event in tokens]
    assert [event.offset for event in tokens] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes) == sum(len(event.logprobs or ()) for event in tokens) == 12_000
    assert isinstance(driver.events_of("a")[-1], Finished)


async def test_an_answer_goes_on_after_the_tokens_the_reader_holds(mock: Settings, driver: Driver) -> None:
    async with working(mock, driver):
        await driver.give("whole", sampling=FIVE)
        await driver.ended("whole")
        *tokens, _ = driver.events_of("whole")
        held = [token_id for event in tokens for token_id in event.token_ids][:3]
        await driver.give("rest", sampling=FIVE, attempt=2, resume=held)
        await driver.ended("rest", 2)
    assert driver.events_of("rest")[0].offset == 3
    assert driver.text_of("rest") == " fox jumps"
    assert driver.events_of("rest")[-1].usage.completion_tokens == 5


@pytest.mark.parametrize(
    "prompt",
    [
        {"messages": [ChatMessage(role="user", content="Hello")]},
        {"prompt": "Hello"},
        {"prompt": "Hello " * 10_000},
        {"prompt_token_ids": [100, 101]},
    ],
    ids=["messages", "prompt", "long prompt", "token ids"],
)
async def test_prompts_are_taken_in_every_form(mock: Settings, driver: Driver, prompt: dict[str, object]) -> None:
    async with working(mock.model_copy(update={"max_model_len": 100_000}), driver):
        await driver.give("a", sampling=FIVE, **prompt)
        ended = await driver.ended("a")
    assert ended.outcome is Outcome.FINISHED
    assert ended.usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt_token_ids": [99_999_999]}, "invalid_request"),
        ({"sampling": SamplingParams(max_tokens=40_000)}, "context_length_exceeded"),
        ({"messages": [ChatMessage(role="user", content=[{"type": "image_url"}])]}, "invalid_request"),
    ],
)
async def test_a_request_that_cannot_run_is_refused_to_its_reader(
    mock: Settings, driver: Driver, fields: dict[str, object], code: str
) -> None:
    async with working(mock, driver):
        await driver.give("a", **fields)
        ended = await driver.ended("a")
        await driver.give("b", sampling=FIVE)
        await driver.ended("b")
    (failed,) = driver.events_of("a")
    assert isinstance(failed, Failed)
    assert failed.error.code == code
    assert ended.outcome is Outcome.FAILED
    assert ended.error == failed.error


async def test_a_running_request_is_cancelled(slow: Settings, driver: Driver) -> None:
    async with working(slow, driver):
        await driver.give("a")
        await driver.tokens("a")
        await driver.cancel("a", "another")
        ended = await driver.ended("a")
        *tokens, last = driver.events_of("a")
        assert isinstance(last, Cancelled)
        assert ended.outcome is Outcome.CANCELLED
        assert ended.usage.completion_tokens == sum(len(event.token_ids) for event in tokens) > 0


async def test_a_cancellation_that_comes_before_its_request_counts(mock: Settings, driver: Driver) -> None:
    async with working(mock, driver):
        await driver.cancel("a")
        await driver.control()
        await driver.give("a")
        assert (await driver.ended("a")).outcome is Outcome.CANCELLED
    assert driver.events_of("a") == [Cancelled(id="a")]


async def test_an_item_delivered_twice_runs_once(slow: Settings, driver: Driver) -> None:
    async with working(slow, driver):
        await driver.give("a")
        await driver.tokens("a")
        await driver.give("a")
        await driver.give("b", sampling=FIVE)
        await driver.ended("b")
        assert (await driver.control()).heartbeat.running == {"a": 1}
    offsets = [event.offset for event in driver.events_of("a")]
    assert offsets == list(range(len(offsets)))


async def test_an_item_that_has_ended_is_not_run_again(mock: Settings, driver: Driver) -> None:
    async with working(mock, driver):
        await driver.give("a", sampling=FIVE)
        await driver.ended("a")
        count = len(driver.events_of("a"))
        await driver.give("a", sampling=FIVE)
        await driver.give("b", sampling=FIVE)
        await driver.ended("b")
    assert len(driver.events_of("a")) == count


async def test_a_later_attempt_takes_the_place_of_an_earlier_one(slow: Settings, driver: Driver) -> None:
    async with working(slow, driver):
        await driver.give("a")
        await driver.tokens("a")
        await driver.give("a", attempt=2)
        await driver.events.find(lambda event: event.attempt == 2)
        later = len(driver.events.seen)
        await driver.events.find(lambda event: event.offset > 3, after=later)
        assert (await driver.control()).heartbeat.running == {"a": 2}
    assert {event.attempt for event in driver.events.seen[later:]} == {2}


async def test_items_and_orders_of_an_older_leader_are_refused(slow: Settings, driver: Driver) -> None:
    async with working(slow, driver):
        report = await driver.control(term=5)
        assert report.heartbeat.term == 5
        await driver.give("old", term=4)
        await driver.give("new", term=5)
        await driver.tokens("new")
        await driver.control(term=4, preempt=["new"], drain=True)
        report = await driver.control(term=6)
    assert report.heartbeat.running == {"new": 1}
    assert report.heartbeat.state is EngineState.READY
    assert driver.events_of("old") == []


async def test_a_preempted_request_is_handed_back_without_a_word_to_its_reader(
    slow: Settings, driver: Driver
) -> None:
    async with working(slow, driver):
        await driver.give("a")
        await driver.tokens("a")
        report = await driver.control(preempt=["a", "unknown"])
        ended = await driver.ended("a")
    assert ended.outcome is Outcome.RETURNED
    assert ended.error is None
    assert report.heartbeat.running == {}
    assert report.ended == [ended]
    assert all(isinstance(event, Tokens) for event in driver.events_of("a"))


async def test_a_worker_ordered_to_drain_takes_nothing_new_and_finishes_what_runs(
    mock: Settings, driver: Driver
) -> None:
    async with working(mock.model_copy(update={"mock_tpot_ms": 5.0}), driver):
        await driver.give("running", sampling=SamplingParams(max_tokens=30))
        await driver.tokens("running")
        report = await driver.control(drain=True)
        assert report.heartbeat.state is EngineState.DRAINING
        await driver.give("late")
        assert (await driver.ended("late")).outcome is Outcome.RETURNED
        assert (await driver.ended("running")).outcome is Outcome.FINISHED


async def test_a_stopping_worker_finishes_what_runs(mock: Settings, driver: Driver) -> None:
    settings = mock.model_copy(update={"mock_tpot_ms": 5.0, "drain_timeout_s": 20.0})
    async with working(settings, driver) as stop:
        await driver.give("a", sampling=SamplingParams(max_tokens=30))
        await driver.tokens("a")
        stop.set()
        assert (await driver.state(EngineState.DRAINING)).running == {"a": 1}
        assert (await driver.ended("a")).outcome is Outcome.FINISHED
        await driver.heartbeats.find(lambda beat: beat.state is EngineState.STOPPED)


async def test_a_stopping_worker_hands_back_what_takes_too_long(slow: Settings, driver: Driver) -> None:
    async with working(slow, driver) as stop:
        await driver.give("a")
        await driver.tokens("a")
        stop.set()
        assert (await driver.ended("a")).outcome is Outcome.RETURNED
        stopped = await driver.heartbeats.find(lambda beat: beat.state is EngineState.STOPPED)
        assert stopped.running == {}
    assert await driver.undelivered() == 0


async def test_items_are_acknowledged_when_they_have_ended(slow: Settings, driver: Driver) -> None:
    async with working(slow, driver):
        await driver.give("a")
        await driver.tokens("a")
        assert await driver.undelivered() == 1
        await driver.control(preempt=["a"])
        await driver.ended("a")
        await driver.control()
        assert await driver.undelivered() == 0


async def test_ingresses_find_the_tokenizer_and_schedulers_the_worker(
    mock: Settings, driver: Driver, connection: Connection
) -> None:
    settings = mock.model_copy(update={"served_name": "org/Name-1.5"})
    instances = await connection.js.key_value(subjects.INSTANCES_BUCKET)
    async with working(settings, driver):
        models = await connection.js.key_value(subjects.MODELS_BUCKET)
        card = Codec(ModelCard).decode((await models.get("org_Name-1_5")).value, JSON)
        assert card.name == "org/Name-1.5"
        store = await connection.js.object_store(subjects.TOKENIZERS_BUCKET)
        tokenizer = Tokenizer((await store.get(card.tokenizer)).data, card)
        assert tokenizer.decode(tokenizer.encode("Hello wörld")) == "Hello wörld"
        assert "assistant" in tokenizer.render([ChatMessage(role="user", content="x")])
        info = Codec(InstanceInfo).decode((await instances.get(driver.instance)).value)
        assert info.model == "org/Name-1.5"
        assert info.max_concurrent_requests == settings.max_num_seqs
    with pytest.raises(nats.js.errors.KeyNotFoundError):
        await instances.get(driver.instance)


async def test_messages_that_cannot_be_read_do_no_harm(mock: Settings, driver: Driver) -> None:
    async with working(mock, driver):
        nc = driver.connection.nc
        for garbage in (b"", b"\xff", b"{}", b"[1]", b'{"ids": 3}'):
            await nc.publish(subjects.CANCEL, garbage)
            await driver.connection.js.publish(subjects.work("general", driver.instance), garbage)
            await nc.request(subjects.control(driver.instance), garbage, timeout=5)
        await driver.give("a", sampling=FIVE)
        assert (await driver.ended("a")).outcome is Outcome.FINISHED
        await driver.control()
        assert await driver.undelivered() == 0


async def test_a_reader_may_be_missing_or_impossible(mock: Settings, driver: Driver) -> None:
    async with working(mock, driver):
        await driver.give("nobody", sampling=FIVE, reply_to="")
        await driver.give("impossible", sampling=FIVE, reply_to="a..b")
        assert (await driver.ended("nobody")).outcome is Outcome.FINISHED
        assert (await driver.ended("impossible")).outcome is Outcome.FINISHED


async def test_heartbeats_go_on_while_a_long_prompt_is_tokenized(mock: Settings, driver: Driver) -> None:
    async with working(mock.model_copy(update={"max_model_len": 2_000_000}), driver):
        await driver.give("long", sampling=FIVE, prompt="word " * 150_000)
        await driver.heartbeats.find(lambda beat: "long" in beat.running)
        assert driver.events_of("long") == []
        assert (await driver.ended("long")).outcome is Outcome.FINISHED


async def test_a_model_that_cannot_be_loaded_stops_the_worker_with_one_sentence(
    settings: Settings, connection: Connection
) -> None:
    settings = settings.model_copy(update={"engine": "sagellm", "model": "no-such-model"})
    driver = Driver(connection)
    with pytest.raises(ModelLoadError, match="no-such-model"):
        async with working(settings, driver):
            pass


class DyingEngine(MockEngine):
    """Fails its requests and is not healthy any more, as an engine whose thread has died."""

    def die(self) -> None:
        outputs = [StepOutput(id=request_id, error=EngineError("died")) for request_id in self._running]
        self._running.clear()
        self._emit(outputs)
        self._closed = True


async def test_an_engine_that_dies_hands_back_its_requests_and_stops_the_worker(
    slow: Settings, driver: Driver, connection: Connection
) -> None:
    engine = DyingEngine(slow)
    worker = Worker(slow.model_copy(update={"engine": "sagellm"}), connection, engine)
    serving = asyncio.create_task(worker.run(asyncio.Event()))
    await driver.state(EngineState.READY)
    await driver.give("a")
    await driver.tokens("a")
    engine.die()
    ended = await driver.ended("a")
    assert ended.outcome is Outcome.RETURNED
    assert ended.error is not None
    assert ended.error.code == "engine_error"
    with pytest.raises(EngineError, match="died"):
        await serving


async def test_a_worker_can_be_stopped_while_its_engine_starts(settings: Settings) -> None:
    stop = asyncio.Event()
    waiting_for_vllm = settings.model_copy(update={"engine": "vllm", "vllm_url": "http://127.0.0.1:9"})
    task = asyncio.create_task(run(waiting_for_vllm, stop))
    stop.set()
    await asyncio.wait_for(task, 10)


async def test_metrics_count_what_ended(mock: Settings, driver: Driver) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with working(mock.model_copy(update={"metrics_port": port}), driver):
        await driver.give("a", sampling=FIVE)
        await driver.ended("a")
        await driver.heartbeats.find(lambda beat: beat.stats.output_tokens_total == 5)
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    assert 'sagellm_worker_requests_total{outcome="finished"} 1.0' in text
    assert "sagellm_engine_output_tokens_total 5.0" in text
    assert "sagellm_worker_ready 1.0" in text
