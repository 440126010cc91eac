"""OpenAI's own Python client, as most users will call us."""

import openai
import pytest

from .backend import MODEL, TEXT, WORDS

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def client(url: str):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=10) as made:
        yield made


async def test_the_official_client_chats_completes_and_lists_models(client: openai.AsyncOpenAI):
    answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0, user="ada")
    assert answer.choices[0].message.content == TEXT
    assert answer.usage.prompt_tokens_details.cached_tokens == 3

    stream = await client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"priority": "critical", "slo_deadline_ms": 1000},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-1].usage.completion_tokens == len(WORDS)

    completion = await client.completions.create(model=MODEL, prompt=["a", "b"], echo=True)
    assert [choice.text for choice in completion.choices] == ["a" + TEXT, "b" + TEXT]
    streamed = await client.completions.create(model=MODEL, prompt="a", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in streamed]) == TEXT

    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL


async def test_the_official_client_raises_its_own_errors(client: openai.AsyncOpenAI):
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=3)
    assert refused.value.param == "temperature"
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(openai.BadRequestError) as unsupported:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[tool])
    assert (unsupported.value.code, unsupported.value.param) == ("unsupported_parameter", "tools")
