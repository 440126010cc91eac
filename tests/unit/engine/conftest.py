"""A tiny Llama with random weights and a byte-level tokenizer: every token is one byte."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from sagellm_engine.contract import GenerateRequest, StepOutput
from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import ModelCard, SamplingParams

EOS = 256
VOCABULARY = 264


@dataclass
class Answered:
    """All that an engine said of one request."""

    token_ids: list[int]
    texts: list[str]
    outputs: list[StepOutput]

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def last(self) -> StepOutput:
        return self.outputs[-1]


def byte_tokenizer() -> HFTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_of)
    tokenizer = HFTokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|eos|>", special=True)])
    return tokenizer


def _byte_of(character: str) -> int:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    code = ord(character)
    return others[code - 256] if code >= 256 else code


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    card = ModelCard(name="tiny", max_model_len=128, eos_token="<|eos|>", eos_token_ids=[EOS])
    return Tokenizer(byte_tokenizer().to_str().encode(), card)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=160,
        tie_word_embeddings=False,
        attention_bias=True,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=EOS,
        dtype="float32",
    )
    torch.manual_seed(7)
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(byte_tokenizer().to_str())
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|eos|>"}')
    return folder


@pytest.fixture(scope="session")
def reference(tiny: Path) -> LlamaForCausalLM:
    """The same model in transformers."""
    return LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def engine_of(tiny: Path) -> Callable[..., Engine]:
    """Builds an engine on the tiny model."""

    def build(**options: Any) -> Engine:
        defaults: dict[str, Any] = {"num_blocks": 80, "block_size": 4, "max_model_len": 160, "max_num_seqs": 8}
        return Engine(EngineConfig(model=str(tiny), **(defaults | options)))

    return build


def run(engine: Engine, requests: list[GenerateRequest]) -> dict[str, Answered]:
    """Run `requests` together to their ends, checking the books after every step."""
    answers = {request.id: Answered(list(request.resume_token_ids), [], []) for request in requests}
    for request in requests:
        engine.add_request(request)
    while engine.has_work:
        for output in engine.step():
            answer = answers[output.id]
            if output.token_ids:
                assert output.offset == len(answer.token_ids)
            answer.token_ids += output.token_ids
            answer.texts.append(output.text)
            answer.outputs.append(output)
        engine.blocks.check_integrity(engine.scheduler.sequences)
    return answers


def request_of(number: int, prompt: list[int], resume: list[int] | None = None, **params: Any) -> GenerateRequest:
    """A greedy request of 24 tokens unless `params` say otherwise."""
    sampling = SamplingParams(**({"max_tokens": 24, "temperature": 0.0, "ignore_eos": True} | params))
    return GenerateRequest(
        id=str(number), prompt_token_ids=prompt, sampling=sampling, resume_token_ids=resume or []
    )


def prompts_of(*lengths: int) -> list[list[int]]:
    """Prompts of random bytes."""
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths]
