from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from sagellm_engine.loader.gguf_tokenizer import GgufTokenizer
from sagellm_schemas import ModelLoadError

BYTE, CONTROL, UNKNOWN, NORMAL, USER_DEFINED = 6, 3, 2, 1, 4


def tokenizer_of(**metadata: object) -> Tokenizer:
    keys = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return Tokenizer.from_buffer(GgufTokenizer(keys, "a.gguf").to_json())


def byte_level(**changes: object) -> Tokenizer:
    """A vocabulary of single bytes, and merges that a wrong pre-tokenizer would let through."""
    alphabet = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]
    tokens = [*alphabet, "ĠĠ", "12", "123", "1234", "Ġ1", "ab", "aB", "<|end|>", "<think>"]
    merges = ["Ġ Ġ", "1 2", "12 3", "123 4", "Ġ 1", "a b", "a B"]
    kinds = [NORMAL] * (len(tokens) - 2) + [CONTROL, USER_DEFINED]
    return tokenizer_of(
        **{"model": "gpt2", "tokens": tokens, "merges": merges, "token_type": kinds, "bos_token_id": 0} | changes
    )


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("gpt-2", ["1234", "Ġ1", "Ġ", "Ġ1"]),
        ("smollm", ["1", "2", "3", "4", "Ġ", "1", "ĠĠ", "1"]),
        ("llama-bpe", ["123", "4", "Ġ", "1", "Ġ", "Ġ", "1"]),
        ("qwen2", ["1", "2", "3", "4", "Ġ", "1", "Ġ", "Ġ", "1"]),
    ],
)
def test_numbers_and_spaces_are_cut_as_the_file_says(pre: str, words: list[str]) -> None:
    assert byte_level(pre=pre).encode("1234 1  1", add_special_tokens=False).tokens == words


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("qwen2", ["aB", "'", "s", "1", "2", "3"]),
        ("dbrx", ["aB", "'", "s", "123"]),
        ("gpt-4o", ["a", "B", "'", "s", "123"]),
        ("tekken", ["a", "B", "'", "s", "1", "2", "3"]),
    ],
)
def test_words_in_mixed_case_are_cut_as_the_file_says(pre: str, words: list[str]) -> None:
    assert byte_level(pre=pre).encode("aB's123", add_special_tokens=False).tokens == words


def test_llama_3_begins_with_bos_unless_the_file_says_otherwise() -> None:
    assert byte_level(pre="llama-bpe").encode("ab").tokens == ["!", "ab"]
    assert byte_level(pre="llama-bpe", add_bos_token=False).encode("ab").tokens == ["ab"]
    assert byte_level(pre="gpt-2").encode("ab").tokens == ["ab"]
    assert byte_level(pre="gpt-2", add_bos_token=True, add_eos_token=True, eos_token_id=1).encode("ab").tokens == [
        "!",
        "ab",
        '"',
    ]


def test_control_tokens_are_special_and_user_defined_ones_are_text() -> None:
    tokenizer = byte_level()
    encoded = tokenizer.encode("ab<|end|><think>ab")
    assert encoded.tokens == ["ab", "<|end|>", "<think>", "ab"]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=True) == "ab<think>ab"


@pytest.fixture(scope="module")
def reference() -> Tokenizer:
    """A trained tokenizer of the Llama 2 kind: spaces as ▁, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    corpus = "the cat and the hat sat on the mat. that was a bad habit, as the bat had said that day"
    tokenizer.train_from_iterator([word for word in corpus.split() for _ in range(3)] + [corpus], trainer)
    return tokenizer


def sentencepiece_metadata(reference: Tokenizer) -> dict[str, Any]:
    vocabulary = reference.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 259)
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(tokens) - 259)]
    return {
        "model": "llama",
        "tokens": tokens,
        "scores": scores,
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


@pytest.mark.parametrize(
    "text", ["the cat sat", "  two  spaces ", "that habit was bad, said the hat", "ünïcode 😀 mat", "a\nb", ""]
)
def test_merges_recovered_from_scores_give_the_tokens_they_were_made_from(reference: Tokenizer, text: str) -> None:
    tokenizer = tokenizer_of(**sentencepiece_metadata(reference), add_bos_token=False)
    ids = tokenizer.encode(text).ids
    assert ids == [token_id for token_id in reference.encode(text).ids if token_id != 1]
    assert tokenizer.decode(ids) == text


def test_sentencepiece_begins_with_bos_and_a_space(reference: Tokenizer) -> None:
    metadata = sentencepiece_metadata(reference)
    assert tokenizer_of(**metadata).encode("the").tokens == ["<s>", "▁the"]
    assert tokenizer_of(**metadata, add_space_prefix=False).encode("th").tokens == ["<s>", "th"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_type": [1, 1]}, "2 token types"),
        ({"scores": [0.5]}, "1 scores"),
        ({"tokens": [1, 2]}, "wrong tokenizer.ggml.tokens"),
        ({"scores": None}, "wrong tokenizer.ggml.scores"),
    ],
)
def test_a_vocabulary_that_does_not_fit_together_is_refused(
    reference: Tokenizer, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        tokenizer_of(**sentencepiece_metadata(reference) | change)


def test_merges_of_tokens_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ModelLoadError, match="damaged tokenizer"):
        byte_level(merges=["a q", "aq zz"])
