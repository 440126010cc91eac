"""The mock engine is as exact as a real one: same input, same output, wherever it begins."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sagellm.settings import Settings
from sagellm.worker.engines.mock import MockEngine
from sagellm.worker.engines.mock_answer import MockAnswer
from sagellm.worker.engines.mock_model import MockModel, load_mock_model
from sagellm_engine.contract import GenerateRequest, StepOutput
from sagellm_schemas import ContextLengthExceeded, FinishReason, InvalidRequest, SamplingParams

TEXT = "One two three, naïve 🙂 four. "


@pytest.fixture(scope="module")
def model() -> MockModel:
    return load_mock_model(Settings(engine="mock", model="mock", mock_text=TEXT, max_model_len=200))


def play(model: MockModel, held: int = 0, **sampling: object) -> list[StepOutput]:
    whole = [token for tokens in model.singles for token in tokens] * 20
    request = GenerateRequest(
        id="a", sampling=SamplingParams(**sampling), prompt_token_ids=[1, 2], resume_token_ids=whole[:held]
    )
    answer = MockAnswer(request, model)
    outputs = [answer.advance()]
    while outputs[-1].finish_reason is None:
        outputs.append(answer.advance())
    return outputs


def text(outputs: list[StepOutput]) -> str:
    return "".join(output.text for output in outputs)


def test_it_says_the_text_over_and_over(model: MockModel) -> None:
    outputs = play(model, max_tokens=len(model.singles) * 2)
    assert text(outputs) == TEXT * 2
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert [output.offset for output in outputs] == list(range(len(outputs)))


def test_it_ends_by_itself_after_64_tokens(model: MockModel) -> None:
    outputs = play(model)
    assert len(outputs) == 64
    assert outputs[-1].finish_reason is FinishReason.STOP
    assert len(play(model, ignore_eos=True)) == 198


@given(
    held=st.integers(0, 60),
    max_tokens=st.integers(1, 60),
    stop=st.lists(st.sampled_from(["t", "three,", " four", "🙂", "never", ". One"]), max_size=2),
    min_tokens=st.integers(0, 5),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_an_answer_goes_on_from_any_place_as_if_it_had_not_stopped(
    model: MockModel, held: int, max_tokens: int, stop: list[str], min_tokens: int
) -> None:
    sampling = {"max_tokens": max_tokens, "stop": stop, "min_tokens": min(min_tokens, max_tokens)}
    whole = play(model, **sampling)
    rest = play(model, held, **sampling)
    tokens = [token for output in whole for token in output.token_ids]
    assert [token for output in rest for token in output.token_ids] == tokens[held:]
    assert text(rest) == text(whole[held:])
    assert (rest[-1].finish_reason, rest[-1].stop_reason, rest[-1].usage) == (
        whole[-1].finish_reason,
        whole[-1].stop_reason,
        whole[-1].usage,
    )


@given(stop=st.text(alphabet="Onetw r,", min_size=1, max_size=4))
@hypothesis_settings(max_examples=60, deadline=None)
def test_nothing_of_a_stop_string_comes_out(model: MockModel, stop: str) -> None:
    outputs = play(model, max_tokens=60, stop=[stop])
    everything = text(play(model, max_tokens=60))
    assert text(outputs) == everything.partition(stop)[0]
    assert (outputs[-1].stop_reason == stop) == (stop in everything)


def test_a_stop_token_ends_the_answer(model: MockModel) -> None:
    token_id = model.singles[3][0]
    outputs = play(model, stop_token_ids=[token_id])
    assert len(outputs) == 4
    assert outputs[-1].stop_reason == token_id
    assert text(outputs) == "".join(model.piece(position) for position in range(3))


@pytest.mark.parametrize(
    ("prompt", "sampling", "error"),
    [
        ([], {}, InvalidRequest),
        ([-1], {}, InvalidRequest),
        ([1 << 40], {}, InvalidRequest),
        ([1] * 200, {}, ContextLengthExceeded),
        ([1] * 150, {"max_tokens": 51}, ContextLengthExceeded),
    ],
)
def test_what_can_never_run_is_refused(
    model: MockModel, prompt: list[int], sampling: dict[str, object], error: type[InvalidRequest]
) -> None:
    with pytest.raises(error):
        MockAnswer(GenerateRequest(id="a", sampling=SamplingParams(**sampling), prompt_token_ids=prompt), model)


class Recorder:
    """An engine with what it emitted, step by step."""

    def __init__(self, **settings: object) -> None:
        self.engine = MockEngine(Settings(engine="mock", model="mock", **settings))
        self.steps: list[list[StepOutput]] = []
        self._news = asyncio.Event()

    def emit(self, outputs: list[StepOutput]) -> None:
        self.steps.append(outputs)
        self._news.set()

    async def until_ended(self, *request_ids: str) -> None:
        async with asyncio.timeout(10):
            while not set(request_ids) <= {o.id for step in self.steps for o in step if o.finish_reason}:
                self._news.clear()
                await self._news.wait()

    def generate(self, request_id: str, max_tokens: int) -> None:
        sampling = SamplingParams(max_tokens=max_tokens)
        self.engine.generate(GenerateRequest(id=request_id, sampling=sampling, prompt_token_ids=[5]))


@pytest.mark.parametrize("delays", [{}, {"mock_tpot_ms": 1.0}, {"mock_ttft_ms": 1.0}])
async def test_all_running_requests_advance_together(delays: dict[str, float]) -> None:
    recorder = Recorder(**delays)
    await recorder.engine.start(recorder.emit)
    recorder.generate("a", 5)
    recorder.generate("b", 3)
    await recorder.until_ended("a", "b")
    counts = {name: sum(o.id == name for step in recorder.steps for o in step) for name in "ab"}
    assert counts == {"a": 5, "b": 3}
    assert sum(len(step) == 2 for step in recorder.steps) >= 2
    assert recorder.engine.stats().output_tokens_total == 8
    await recorder.engine.close()


@pytest.mark.parametrize("delays", [{}, {"mock_tpot_ms": 0.1}])
async def test_more_requests_than_fit_wait_in_line(delays: dict[str, float]) -> None:
    recorder = Recorder(max_num_seqs=2, **delays)
    await recorder.engine.start(recorder.emit)
    names = [str(i) for i in range(2000)]
    for name in names:
        recorder.generate(name, 1)
    assert recorder.engine.stats().waiting == 1998
    await recorder.until_ended(*names)
    assert max(map(len, recorder.steps)) <= 2
    assert [o.id for step in recorder.steps for o in step] == names


async def test_nothing_comes_of_an_aborted_request() -> None:
    recorder = Recorder(max_num_seqs=1, mock_ttft_ms=1.0)
    await recorder.engine.start(recorder.emit)
    for name in ("reading", "waiting", "next"):
        recorder.generate(name, 2)
    recorder.engine.abort("reading")
    recorder.engine.abort("next")
    recorder.engine.abort("unknown")
    await recorder.until_ended("waiting")
    assert {o.id for step in recorder.steps for o in step} == {"waiting"}
    await recorder.engine.close()
    await recorder.engine.close()
    assert not recorder.engine.healthy()
