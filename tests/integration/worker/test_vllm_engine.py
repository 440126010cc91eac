"""The vLLM engine against a server that behaves like vLLM, over real HTTP."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagellm.settings import Settings
from sagellm.worker.engines.mock_model import train_tokenizer
from sagellm.worker.engines.vllm import VllmEngine
from sagellm_engine.contract import GenerateRequest, ServedModel, StepOutput
from sagellm_schemas import (
    ChatMessage,
    ContextLengthExceeded,
    EngineError,
    EngineState,
    FinishReason,
    InvalidRequest,
    Outcome,
    SamplingParams,
    Unavailable,
)

from .driver import Driver, working
from .fake_vllm import MAX_MODEL_LEN, NAME, SENTENCE, FakeVllm, model_folder

HELLO = [ChatMessage(role="user", content="Hello")]
GREEDY = SamplingParams(temperature=0)


class Running:
    """A started engine, and what it emits by request."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine = engine
        self.outputs: dict[str, list[StepOutput]] = {}
        self._news = asyncio.Condition()
        self._pending: asyncio.Queue[list[StepOutput]] = asyncio.Queue()

    async def start(self) -> ServedModel:
        self.served = await self.engine.start(self._pending.put_nowait)
        return self.served

    async def output(self, request_id: str, *, last: bool = False) -> StepOutput:
        """The latest output of a request, or its last."""
        async with asyncio.timeout(20):
            while True:
                seen = self.outputs.get(request_id)
                if seen and (not last or seen[-1].finish_reason or seen[-1].error):
                    return seen[-1]
                for output in await self._pending.get():
                    self.outputs.setdefault(output.id, []).append(output)

    async def answer(self, request_id: str = "a", **fields: object) -> StepOutput:
        """Run one request to its end."""
        self.engine.generate(GenerateRequest(id=request_id, **({"sampling": GREEDY} | fields)))
        return await self.output(request_id, last=True)

    def text(self, request_id: str = "a") -> str:
        return "".join(output.text for output in self.outputs[request_id])

    def token_ids(self, request_id: str = "a") -> list[int]:
        return [token_id for output in self.outputs[request_id] for token_id in output.token_ids]


@pytest.fixture
async def server() -> AsyncIterator[FakeVllm]:
    async with FakeVllm().running() as running:
        yield running


@contextlib.asynccontextmanager
async def engine_of(server: FakeVllm, model: str) -> AsyncIterator[Running]:
    running = Running(VllmEngine(Settings(engine="vllm", vllm_url=server.url, model=model)))
    try:
        await running.start()
        yield running
    finally:
        await running.engine.close()


@pytest.fixture
async def with_files(server: FakeVllm, tmp_path: Path) -> AsyncIterator[Running]:
    """An engine that has the model's files."""
    async with engine_of(server, str(model_folder(tmp_path / "model"))) as running:
        yield running


@pytest.fixture
async def without_files(server: FakeVllm) -> AsyncIterator[Running]:
    """An engine that knows only the server."""
    async with engine_of(server, "unknown") as running:
        yield running


async def test_the_card_tells_what_the_server_serves(with_files: Running, without_files: Running) -> None:
    for running in (with_files, without_files):
        card = running.served.card
        assert (card.name, card.max_model_len, card.owned_by) == (NAME, MAX_MODEL_LEN, "vllm")
    assert with_files.served.tokenizer_json
    assert with_files.served.card.chat_template
    assert without_files.served.tokenizer_json == b""


async def test_with_files_prompts_and_answers_are_token_ids(with_files: Running, server: FakeVllm) -> None:
    last = await with_files.answer(prompt_token_ids=[10, 11])
    assert with_files.text() == SENTENCE
    assert with_files.token_ids() == server.script
    assert last.finish_reason is FinishReason.STOP
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, len(server.script))
    assert last.usage.cached_tokens == 4
    ((kind, body),) = server.bodies
    assert (kind, body["prompt"], body["max_tokens"]) == ("completions", [10, 11], None)


async def test_without_files_messages_go_to_the_chat_endpoint(without_files: Running, server: FakeVllm) -> None:
    last = await without_files.answer(messages=HELLO, sampling=SamplingParams(max_tokens=5))
    assert without_files.text() == "The quick brown fox jumps"
    assert without_files.token_ids() == server.script[:5]
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage.completion_tokens == 5
    ((kind, body),) = server.bodies
    assert (kind, body["messages"]) == ("chat", [{"role": "user", "content": "Hello"}])


async def test_without_files_a_text_prompt_goes_to_completions(without_files: Running, server: FakeVllm) -> None:
    await without_files.answer(prompt="Hello")
    assert without_files.text() == SENTENCE
    assert server.bodies[0][0] == "completions"


async def test_files_of_another_model_are_not_used(server: FakeVllm, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(train_tokenizer("Other words"))
    async with engine_of(server, str(folder)) as running:
        assert running.served.tokenizer_json == b""


@pytest.mark.parametrize("held", [0, 1, 5, 14, 17, 18, 19, 20, 24])
async def test_a_resumed_answer_goes_on_without_a_seam(with_files: Running, server: FakeVllm, held: int) -> None:
    await with_files.answer("whole", prompt_token_ids=[10])
    pieces = [output.text for output in with_files.outputs["whole"] if output.token_ids]
    last = await with_files.answer("rest", prompt_token_ids=[10], resume_token_ids=server.script[:held])
    assert with_files.text("rest") == "".join(pieces[held:])
    assert with_files.outputs["rest"][0].offset == held
    assert last.usage.completion_tokens == len(server.script)
    assert server.bodies[-1][1]["prompt"] == [10, *server.script[:held]]


async def test_without_files_a_resumed_chat_goes_on_too(without_files: Running, server: FakeVllm) -> None:
    sampling = SamplingParams(max_tokens=5, min_tokens=4, seed=7)
    last = await without_files.answer(messages=HELLO, sampling=sampling, resume_token_ids=server.script[:3])
    assert without_files.text() == " fox jumps"
    assert without_files.outputs["a"][0].offset == 3
    assert last.usage.completion_tokens == 5
    kind, body = server.bodies[-1]
    assert kind == "completions"
    assert (body["max_tokens"], body["min_tokens"]) == (2, 1)
    assert last.usage.prompt_tokens == len(body["prompt"]) - 3


async def test_an_answer_of_which_all_is_held_just_ends(with_files: Running, server: FakeVllm) -> None:
    last = await with_files.answer(
        prompt_token_ids=[10], sampling=SamplingParams(max_tokens=3), resume_token_ids=server.script[:3]
    )
    assert last.finish_reason is FinishReason.LENGTH
    assert with_files.text() == ""
    assert server.bodies == []


@pytest.mark.parametrize("files", [True, False])
async def test_a_stop_string_ends_the_answer_before_it(
    with_files: Running, without_files: Running, files: bool
) -> None:
    running = with_files if files else without_files
    prompt = {"prompt_token_ids": [10]} if files else {"prompt": "Hello"}
    last = await running.answer(**prompt, sampling=SamplingParams(stop=["n fox"]))
    assert running.text() == "The quick brow"
    assert (last.finish_reason, last.stop_reason) == (FinishReason.STOP, "n fox")


async def test_sampling_parameters_arrive(with_files: Running, server: FakeVllm) -> None:
    sampling = SamplingParams(
        max_tokens=5,
        min_tokens=2,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        repetition_penalty=1.1,
        seed=11,
        stop=["x"],
        stop_token_ids=[3],
        ignore_eos=True,
        logprobs=2,
    )
    await with_files.answer(prompt_token_ids=[10], sampling=sampling)
    body = server.bodies[0][1]
    for name in SamplingParams.__struct_fields__:
        assert body[name] == getattr(sampling, name), name


@pytest.mark.parametrize("files", [True, False])
@pytest.mark.parametrize("chat", [True, False])
async def test_log_probabilities_are_translated(
    with_files: Running, without_files: Running, server: FakeVllm, files: bool, chat: bool
) -> None:
    running = with_files if files else without_files
    prompt = {"messages": HELLO} if chat else {"prompt": "Hello"}
    prompt = {"prompt_token_ids": [10]} if files else prompt
    await running.answer(**prompt, sampling=SamplingParams(max_tokens=2, logprobs=1))
    positions = [position for output in running.outputs["a"] for position in output.logprobs or ()]
    assert [position.chosen.token_id for position in positions] == server.script[:2]
    assert [position.chosen.token for position in positions] == ["The", " quick"]
    assert positions[1].chosen.bytes == list(b" quick")
    assert all(position.chosen.logprob == -0.25 for position in positions)
    assert [[best.token for best in position.top] for position in positions] == [["The"], [" quick"]]


async def test_what_vllm_refuses_is_an_invalid_request_in_its_words(with_files: Running) -> None:
    last = await with_files.answer(prompt_token_ids=[10], sampling=SamplingParams(max_tokens=5000))
    assert isinstance(last.error, ContextLengthExceeded)
    assert "max_tokens=5000 cannot be greater" in last.error.message
    assert last.error.param == "max_tokens"
    last = await with_files.answer("b", prompt_token_ids=[10, 99_999_999])
    assert type(last.error) is InvalidRequest
    assert last.error.message == "Token id 99999999 is out of vocabulary"


@pytest.mark.parametrize("status", [500, 503, 401])
async def test_what_fails_in_vllm_may_be_tried_again(with_files: Running, server: FakeVllm, status: int) -> None:
    server.fail_with = status, {"message": "broken", "code": status}
    last = await with_files.answer(prompt_token_ids=[10])
    assert isinstance(last.error, EngineError)
    assert last.error.retryable
    assert "broken" in last.error.message


async def test_a_connection_that_is_lost_may_be_tried_again(with_files: Running, server: FakeVllm) -> None:
    server.break_off_after = 3
    last = await with_files.answer(prompt_token_ids=[10])
    assert isinstance(last.error, Unavailable)
    assert with_files.token_ids() == server.script[:3]


async def test_aborting_closes_the_stream_so_that_vllm_cancels(with_files: Running, server: FakeVllm) -> None:
    server.gate.clear()
    with_files.engine.generate(GenerateRequest(id="a", sampling=GREEDY, prompt_token_ids=[10]))
    await with_files.output("a")
    with_files.engine.abort("a")
    await asyncio.wait_for(server.disconnected.wait(), 10)
    server.gate.set()
    await with_files.answer("b", prompt_token_ids=[10])
    assert len(with_files.outputs["a"]) == 1
    assert with_files.engine.stats().running == 0


async def test_a_prompt_that_fills_the_context_is_refused(with_files: Running) -> None:
    with pytest.raises(ContextLengthExceeded):
        with_files.engine.generate(GenerateRequest(id="a", sampling=GREEDY, prompt_token_ids=[1] * MAX_MODEL_LEN))


async def test_a_worker_waits_for_vllm_and_follows_its_health(settings: Settings, driver: Driver) -> None:
    server = FakeVllm()
    async with server.running():
        settings = settings.model_copy(
            update={"engine": "vllm", "vllm_url": server.url, "model": "x", "drain_timeout_s": 0.0}
        )
        async with working(settings, driver):
            await driver.give("a", messages=HELLO, sampling=GREEDY)
            assert (await driver.ended("a")).outcome is Outcome.FINISHED
            assert driver.text_of("a") == SENTENCE
            server.healthy = False
            await driver.state(EngineState.ERROR)
            await driver.give("b", messages=HELLO)
            ended = await driver.ended("b")
            assert (ended.outcome, ended.error) == (Outcome.RETURNED, None)
            server.healthy = True
            await driver.state(EngineState.READY)
            await driver.give("b", messages=HELLO, attempt=2, sampling=GREEDY)
            assert (await driver.ended("b", 2)).outcome is Outcome.FINISHED


async def test_a_worker_hands_back_what_vllm_loses(settings: Settings, driver: Driver) -> None:
    server = FakeVllm()
    server.gate.clear()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server.running())
        settings = settings.model_copy(update={"engine": "vllm", "vllm_url": server.url, "model": "x"})
        async with working(settings, driver):
            await driver.give("a", messages=HELLO, sampling=GREEDY)
            await driver.tokens("a")
            await stack.aclose()
            ended = await driver.ended("a")
            assert ended.outcome is Outcome.RETURNED
            assert ended.error is not None
            assert ended.error.code == "unavailable"
            await driver.heartbeats.find(lambda beat: beat.state is EngineState.ERROR)


@pytest.mark.vllm
@pytest.mark.skipif("SAGELLM_TEST_VLLM_URL" not in os.environ, reason="SAGELLM_TEST_VLLM_URL is not set")
async def test_a_real_vllm_answers_and_resumes() -> None:
    settings = Settings(
        engine="vllm",
        vllm_url=os.environ["SAGELLM_TEST_VLLM_URL"],
        model=os.environ.get("SAGELLM_TEST_VLLM_MODEL", "unknown"),
    )
    running = Running(VllmEngine(settings))
    try:
        served = await running.start()
        prompt = {"prompt": "The capital of France is"}
        if served.tokenizer_json:
            tokens = await running.engine._server.tokenize({"model": running.engine._model, **prompt})
            prompt = {"prompt_token_ids": tokens}
        sampling = SamplingParams(temperature=0, max_tokens=8, logprobs=1)
        await running.answer("whole", **prompt, sampling=sampling)
        token_ids = running.token_ids("whole")
        assert len(token_ids) == 8
        last = await running.answer("rest", **prompt, sampling=sampling, resume_token_ids=token_ids[:4])
        assert running.token_ids("rest") == token_ids[4:]
        assert running.text("whole").endswith(running.text("rest"))
        assert last.usage.completion_tokens == 8
        await running.answer("chat", messages=HELLO, sampling=SamplingParams(max_tokens=2, logprobs=1))
        assert len(running.token_ids("chat")) == 2
        refused = await running.answer("bad", **prompt, sampling=SamplingParams(max_tokens=1_000_000))
        assert isinstance(refused.error, InvalidRequest)
    finally:
        await running.engine.close()


async def test_an_adapter_of_the_server_is_asked_for_as_a_model(server: FakeVllm) -> None:
    server.adapters = ["poet", "clerk"]
    async with engine_of(server, "not/at-hand") as running:
        assert running.served.adapters == ["poet", "clerk"]
        await running.answer(messages=HELLO, adapter="poet")
        await running.answer("b", messages=HELLO)
        with pytest.raises(InvalidRequest, match="has no adapter 'priest'"):
            await running.answer("c", messages=HELLO, adapter="priest")
    assert [body["model"] for _, body in server.bodies] == ["poet", NAME]
