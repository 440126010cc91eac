"""`/v1/completions`, as a client sees it."""

import httpx
import pytest

from sagellm_schemas import PositionLogprobs, TokenLogprob, Tokens

from .backend import MODEL, TEXT, Backend, finished
from .sse import chunks_of

PATH = "/v1/completions"


async def test_every_form_of_a_prompt_is_taken(http: httpx.AsyncClient, backend: Backend):
    forms = {
        "a text": ("Hi", 1),
        "a list of texts": (["Hi", "Ho"], 2),
        "token ids": ([10, 20, 30], 1),
        "lists of token ids": ([[10], [20, 30]], 2),
    }
    for prompt, answers in forms.values():
        answer = (await http.post(PATH, json={"model": MODEL, "prompt": prompt})).json()
        assert [choice["index"] for choice in answer["choices"]] == list(range(answers))
        assert {choice["text"] for choice in answer["choices"]} == {TEXT}
        assert answer["object"] == "text_completion"
        assert answer["id"].startswith("cmpl-")
    requests = [backend.requests.get_nowait() for _ in range(6)]
    lengths = [len(request.prompt_token_ids) for request in requests]
    assert lengths == [2, 2, 2, 3, 1, 2]
    assert requests[3].prompt_token_ids == [10, 20, 30]
    assert {request.sampling.max_tokens for request in requests} == {16}


async def test_choices_follow_the_order_of_the_prompts(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        text = f"{len(request.prompt_token_ids)}"
        await backend.send(request, Tokens(id=request.id, token_ids=[1], text=text), finished(request))

    backend.answer = answer
    body = {"model": MODEL, "prompt": ["a", "bb"], "n": 2}
    answer_ = (await http.post(PATH, json=body)).json()
    assert [choice["text"] for choice in answer_["choices"]] == ["1", "1", "2", "2"]
    assert answer_["usage"]["prompt_tokens"] == 3


async def test_a_stream_has_text_and_ends_with_the_reason(http: httpx.AsyncClient):
    chunks = chunks_of(await http.post(PATH, json={"model": MODEL, "prompt": "Hi", "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TEXT
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


@pytest.mark.parametrize(("prompt", "echoed"), [("Hi", "Hi"), ([39, 72], None)])
async def test_echo_puts_the_prompt_before_the_answer(http: httpx.AsyncClient, prompt: object, echoed: str | None):
    body = {"model": MODEL, "prompt": prompt, "echo": True}
    whole = (await http.post(PATH, json=body)).json()["choices"][0]["text"]
    chunks = chunks_of(await http.post(PATH, json=body | {"stream": True}))
    assert whole.endswith(TEXT)
    assert len(whole) == len(TEXT) + 2
    assert echoed is None or whole.startswith(echoed)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole


async def test_logprobs_have_openais_shape(http: httpx.AsyncClient, backend: Backend):
    def position(text: str) -> PositionLogprobs:
        chosen = TokenLogprob(token_id=1, token=text, logprob=-0.5)
        return PositionLogprobs(chosen=chosen, top=[chosen])

    async def answer(backend, request):
        for offset, text in enumerate(("Hello", " you")):
            token = Tokens(id=request.id, offset=offset, token_ids=[1], text=text, logprobs=[position(text)])
            await backend.send(request, token)
        await backend.send(request, finished(request))

    backend.answer = answer
    body = {"model": MODEL, "prompt": "Hi", "logprobs": 1}
    whole = (await http.post(PATH, json=body)).json()
    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["Hello", " you"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"Hello": -0.5}, {" you": -0.5}],
        "text_offset": [0, 5],
    }
    chunks = chunks_of(await http.post(PATH, json=body | {"stream": True}))
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks[:2]] == [[0], [5]]
