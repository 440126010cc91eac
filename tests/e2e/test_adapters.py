"""`sagellm up --adapter`: adapters answer over HTTP and NATS as models that have them merged in their weights."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import nats
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from sagellm.worker.engines.mock_model import train_tokenizer
from sagellm_engine.llm import LLM
from sagellm_schemas import (
    Codec,
    Finished,
    Frame,
    InferenceRequest,
    SamplingParams,
    Tokens,
    encode,
    subjects,
)

from .pipeline import NATS_TOKEN, RunningPipeline, running_pipeline, sagellm

PROMPT = "The quick brown fox jumps over the lazy dog. " * 4
TARGETS = ("q_proj", "v_proj", "up_proj", "down_proj")
TOKENS = 16


def write_model(folder: Path, tokenizer_json: bytes) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=Tokenizer.from_buffer(tokenizer_json).get_vocab_size(),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    save(model, folder, tokenizer_json)
    return model


def save(model: LlamaForCausalLM, folder: Path, tokenizer_json: bytes) -> None:
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer_json)


def write_adapter(folder: Path, model: LlamaForCausalLM, seed: int) -> None:
    """An adapter; `model` has it merged into its weights afterwards."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.endswith(TARGETS):
            a = torch.randn(4, module.in_features, generator=generator) / 8
            b = torch.randn(module.out_features, 4, generator=generator) / 4
            tensors |= {f"base_model.model.{name}.lora_{x}.weight": w for x, w in (("A", a), ("B", b))}
            module.weight.data += 2 * b @ a
    folder.mkdir()
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two adapters, and the models that they make of it."""
    root = tmp_path_factory.mktemp("models")
    tokenizer_json = train_tokenizer(PROMPT)
    write_model(root / "base", tokenizer_json)
    for seed, name in enumerate(("poet", "clerk")):
        model = LlamaForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
        write_adapter(root / f"{name}-adapter", model, seed)
        save(model, root / name, tokenizer_json)
    return root


@pytest.fixture(scope="module")
def expected(folders: Path) -> dict[str, str]:
    params = SamplingParams(max_tokens=TOKENS, temperature=0.0)
    return {
        name: LLM(str(folders / name), num_blocks=64).generate(PROMPT, params)[0].text
        for name in ("base", "poet", "clerk")
    }


@pytest.fixture(scope="module")
def pipeline(folders: Path) -> Iterator[RunningPipeline]:
    adapters = [f"--adapter={name}={folders / f'{name}-adapter'}" for name in ("poet", "clerk")]
    state = folders / "state"
    with running_pipeline(
        state, "--model", str(folders / "base"), "--routing", "prefix_aware", *adapters
    ) as running:
        yield running


async def test_many_at_once_get_the_answers_of_the_adapters_they_name(
    pipeline: RunningPipeline, expected: dict[str, str]
) -> None:
    assert len(set(expected.values())) == 3

    async def ask(http: httpx.AsyncClient, model: str) -> tuple[str, str]:
        body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
        answer = (await http.post("/v1/completions", json=body)).raise_for_status().json()
        return answer["model"], answer["choices"][0]["text"]

    async with httpx.AsyncClient(base_url=pipeline.url, timeout=60) as http:
        listed = (await http.get("/v1/models")).json()["data"]
        assert {(model["id"], model["parent"]) for model in listed} == {
            ("base", None),
            ("poet", "base"),
            ("clerk", "base"),
        }
        for _ in range(2):  # the second time out of the prefix cache
            answers = await asyncio.gather(*(ask(http, model) for model in [*expected] * 4))
            assert answers == [*expected.items()] * 4


async def test_over_nats_a_request_names_its_adapter(pipeline: RunningPipeline, expected: dict[str, str]) -> None:
    sampling = SamplingParams(max_tokens=TOKENS, temperature=0.0)
    request = InferenceRequest(
        model="base", prompt=PROMPT, adapter="clerk", sampling=sampling, id="over-nats", reply_to="answers"
    )
    client = await nats.connect(pipeline.nats_url, token=NATS_TOKEN)
    try:
        frames = await client.subscribe("answers")
        await client.jetstream().publish(subjects.requests("base"), encode(request))
        text, ended = "", False
        while not ended:
            message = await frames.next_msg(timeout=60)
            for event in Codec(Frame).decode(message.data).events:
                text += event.text if isinstance(event, Tokens) else ""
                ended |= isinstance(event, Finished)
    finally:
        await client.close()
    assert text == expected["clerk"]


def test_an_adapter_that_cannot_be_used_ends_the_start_with_the_reason(folders: Path, tmp_path: Path) -> None:
    nowhere = sagellm("up", "--no-ask", "--port=0", f"--state-dir={tmp_path}", f"--model={folders / 'base'}",
                      f"--adapter=poet={tmp_path / 'nowhere'}")  # fmt: skip
    assert nowhere.returncode != 0
    assert f"adapter 'poet' cannot be loaded: there is no folder {tmp_path / 'nowhere'}" in nowhere.stderr
    unnamed = sagellm("up", "--adapter", "poet")
    assert unnamed.returncode != 0
    assert "--adapter must be NAME=FOLDER; got 'poet'" in unnamed.stderr
