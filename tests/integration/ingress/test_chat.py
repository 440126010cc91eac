"""`/v1/chat/completions`, as a client sees it."""

import asyncio

import httpx

from sagellm_schemas import Finished, FinishReason, PositionLogprobs, TokenLogprob, Tokens, Usage

from .backend import MODEL, TEXT, WORDS, Backend, finished, whole_answer
from .sse import chunks_of, content_of, live_chunks

PATH = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


async def test_a_chat_is_answered_in_one_document(http: httpx.AsyncClient, backend: Backend):
    response = await http.post(PATH, json=HELLO)
    answer = response.json()
    assert response.headers["content-type"] == "application/json"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == MODEL
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    prompt_tokens = len("user: Hello\nassistant: ")
    assert answer["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(WORDS),
        "total_tokens": prompt_tokens + len(WORDS),
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    request = backend.requests.get_nowait()
    assert request.id == answer["id"]
    assert not request.stream
    assert request.sampling.seed is not None


async def test_a_stream_opens_with_the_role_and_has_a_chunk_for_every_token(
    http: httpx.AsyncClient, backend: Backend
):
    read = asyncio.Semaphore()

    async def answer(backend, request):
        for event in whole_answer(request):
            await read.acquire()  # the client has all that was sent
            await backend.send(request, event)

    backend.answer = answer
    chunks = []
    async with http.stream("POST", PATH, json=HELLO | {"stream": True}) as response:
        async for chunk in live_chunks(response):
            chunks.append(chunk)
            if chunk["choices"][0]["delta"].get("content"):
                read.release()
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, *({"content": word} for word in WORDS), {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(WORDS) + 1) + ["stop"]


async def test_tokens_that_are_there_together_share_a_chunk(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        await backend.send(request, *whole_answer(request))

    backend.answer = answer
    chunks = chunks_of(await http.post(PATH, json=HELLO | {"stream": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": TEXT}, {}]
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        (chunks[0]["id"], "chat.completion.chunk", MODEL)
    }
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_in_a_last_chunk_when_asked_for(http: httpx.AsyncClient):
    body = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = chunks_of(await http.post(PATH, json=body))
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(WORDS)
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


async def test_n_gives_n_choices_with_random_streams_of_their_own(http: httpx.AsyncClient, backend: Backend):
    whole = (await http.post(PATH, json=HELLO | {"n": 3, "seed": 40})).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in whole["choices"]} == {TEXT}
    assert whole["usage"]["completion_tokens"] == 3 * len(WORDS)
    assert whole["usage"]["prompt_tokens"] == len("user: Hello\nassistant: ")
    requests = [backend.requests.get_nowait() for _ in range(3)]
    assert [request.id for request in requests] == [f"{whole['id']}-{i}" for i in range(3)]
    assert [request.sampling.seed for request in requests] == [40, 41, 42]

    chunks = chunks_of(await http.post(PATH, json=HELLO | {"n": 2, "stream": True}))
    assert [content_of(chunks, choice) for choice in (0, 1)] == [TEXT, TEXT]
    assert sum(chunk["choices"][0]["finish_reason"] == "stop" for chunk in chunks) == 2


async def test_logprobs_have_openais_shape(http: httpx.AsyncClient, backend: Backend):
    best = TokenLogprob(token_id=1, token="Hé", logprob=-0.1)
    second = TokenLogprob(token_id=2, token="Ho", logprob=-2.5)

    async def answer(backend, request):
        position = PositionLogprobs(chosen=best, top=[best, second])
        token = Tokens(id=request.id, token_ids=[1], text="Hé", logprobs=[position])
        await backend.send(request, token, finished(request))

    backend.answer = answer
    expected = {
        "token": "Hé",
        "logprob": -0.1,
        "bytes": [72, 195, 169],
        "top_logprobs": [
            {"token": "Hé", "logprob": -0.1, "bytes": [72, 195, 169]},
            {"token": "Ho", "logprob": -2.5, "bytes": [72, 111]},
        ],
    }
    body = HELLO | {"logprobs": True, "top_logprobs": 2}
    whole = (await http.post(PATH, json=body)).json()
    assert whole["choices"][0]["logprobs"]["content"] == [expected]
    assert backend.requests.get_nowait().sampling.logprobs == 2
    chunks = chunks_of(await http.post(PATH, json=body | {"stream": True}))
    assert chunks[1]["choices"][0]["logprobs"]["content"] == [expected]


async def test_the_reason_why_an_answer_stopped_is_told(http: httpx.AsyncClient, backend: Backend):
    async def answer(backend, request):
        end = Finished(id=request.id, finish_reason=FinishReason.STOP, stop_reason="###", usage=Usage())
        await backend.send(request, Tokens(id=request.id, token_ids=[1], text="a"), end)

    backend.answer = answer
    whole = (await http.post(PATH, json=HELLO)).json()
    assert whole["choices"][0]["stop_reason"] == "###"
    chunks = chunks_of(await http.post(PATH, json=HELLO | {"stream": True}))
    assert chunks[-1]["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": "###",
    }


async def test_everything_asked_for_reaches_the_queue(http: httpx.AsyncClient, backend: Backend):
    body = HELLO | {
        "max_completion_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 11,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.1,
        "seed": -5,
        "stop": ["a", "b"],
        "stop_token_ids": [3],
        "min_tokens": 2,
        "ignore_eos": True,
        "priority": "high",
        "slo_deadline_ms": 5000,
        "ttft_slo_ms": 100.5,
        "tbt_slo_ms": 50,
        "cost_budget": 0.01,
        "user": "ada",
        "tags": ["batch", "nightly"],
        "can_be_preempted": False,
        "billing_tier": "gold",
        "metadata": {"any": "thing"},
        "store": False,
        "tools": [],
        "response_format": {"type": "text"},
        "logit_bias": None,
    }
    assert (await http.post(PATH, json=body)).status_code == 200
    request = backend.requests.get_nowait()
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (7, 0.0, 0.5, 11)
    assert (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.1, 0.5, -0.5)
    assert (sampling.repetition_penalty, sampling.seed, sampling.stop) == (1.1, -5, ["a", "b"])
    assert (sampling.stop_token_ids, sampling.min_tokens, sampling.ignore_eos) == ([3], 2, True)
    assert (request.priority, request.slo_deadline_ms, request.ttft_slo_ms) == (1, 5000.0, 100.5)
    assert (request.tbt_slo_ms, request.cost_budget, request.user_id) == (50.0, 0.01, "ada")
    assert request.tags == {"batch": "", "nightly": ""}
    assert (request.can_be_preempted, request.billing_tier) == (False, "gold")


async def test_a_conversation_of_content_parts_is_rendered_as_text(http: httpx.AsyncClient, backend: Backend):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    await http.post(PATH, json=HELLO)
    await http.post(PATH, json=HELLO | {"messages": [{"role": "user", "content": parts}]})
    first, second = backend.requests.get_nowait(), backend.requests.get_nowait()
    assert first.prompt_token_ids == second.prompt_token_ids
