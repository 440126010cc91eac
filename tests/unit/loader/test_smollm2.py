"""The real model that `sagellm up` serves by default."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sagellm_engine.loader import Checkpoint, open_checkpoint
from sagellm_engine.weights import GroupQuantized

CODE = "def main(argv: list[str]) -> int:\n\tfor x in argv:\n        print(f'{x!r}')\n\n\n    return 0\r\n"
TEXTS = [
    "Compose an engaging travel blog post about a recent trip to Hawaii.",
    CODE,
    "3.14159 and 1,000,000 in 2024; 0x1F",
    "😀 👩‍👩‍👧 ñandú, naïve cafe\u0301",
    "你好世界 こんにちは 안녕하세요 مرحبا",
    "   three   and\n\n\nmore \t blanks   ",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "",
]


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf: Path) -> Checkpoint:
    return open_checkpoint("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.from_buffer(checkpoint.tokenizer_json)


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)


def test_the_alias_opens_as_a_chat_model(checkpoint: Checkpoint) -> None:
    assert checkpoint.name == "smollm2-135m-instruct"
    assert (checkpoint.bos_token, checkpoint.eos_token, checkpoint.eos_token_ids) == (
        "<|im_start|>",
        "<|im_end|>",
        [2],
    )
    assert "<|im_start|>assistant" in checkpoint.chat_template
    config = checkpoint.config
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (30, 9, 3, 64)
    assert (config.ropes[0].theta, config.tie_word_embeddings) == (100000.0, True)


@pytest.mark.parametrize("text", TEXTS)
def test_text_becomes_the_tokens_transformers_makes_of_it(
    tokenizer: Tokenizer, reference: PreTrainedTokenizerFast, text: str
) -> None:
    ids = tokenizer.encode(text).ids
    assert ids == reference.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_stand_alone_even_after_blanks_as_in_the_models_own_tokenizer(tokenizer: Tokenizer) -> None:
    # transformers drops this rule when it converts a GGUF file, and makes "Ġ Ġ 4" of it.
    assert tokenizer.encode("x  42").tokens == ["x", "ĠĠ", "4", "2"]


def test_every_weight_is_there_and_finite(checkpoint: Checkpoint) -> None:
    count = 0
    for name, tensor in checkpoint.tensors():
        assert tuple(tensor.shape) == checkpoint.shapes()[name]
        weight = tensor.dequantize() if isinstance(tensor, GroupQuantized) else tensor
        assert weight.isfinite().all()
        count += 1
    assert count == 272
