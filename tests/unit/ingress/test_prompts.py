import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm.ingress import prompts
from sagellm.ingress.models import Model
from sagellm.ingress.prompts import PromptEncoder

from .conftest import SPECIAL

pieces = st.sampled_from([*SPECIAL, "ab", "a", " a", "hello", " ", "\n", "é🙂", "<|", "end|>"])
texts = st.lists(pieces).map("".join)
PLAIN = {"content": "<x>", "id": 5} | dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)


@given(text=texts)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_encoding_in_pieces_gives_the_ids_of_the_whole_text(model: Model, text: str):
    assert model.tokenizer is not None
    assert model.encoder is not None
    whole = model.tokenizer.encode(text, add_special_tokens=False)
    assert await model.encoder.encode(text) == whole
    assert await model.encoder.encode(text) == whole  # now from memory


async def test_the_memory_is_bounded(model: Model, tokenizer_json: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompts, "REMEMBERED_TOKENS", 20)
    encoder = PromptEncoder(model.tokenizer, tokenizer_json)
    for i in range(50):
        await encoder.encode(f"<|start|>text {i}<|end|>")
    assert sum(map(len, encoder._pieces.values())) == encoder._tokens <= 20


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
async def test_a_tokenizer_whose_special_tokens_look_around_encodes_whole_texts(model: Model, flag: str):
    assert prompts._special_tokens({"added_tokens": [PLAIN]}) == {"<x>": 5}
    assert prompts._special_tokens({"added_tokens": [PLAIN | {flag: True}]}) == {}


def test_a_tokenizer_whose_first_piece_is_special_encodes_whole_texts():
    metaspace = {"type": "Sequence", "pretokenizers": [{"type": "Metaspace", "prepend_scheme": "first"}]}
    assert prompts._special_tokens({"added_tokens": [PLAIN], "pre_tokenizer": metaspace}) == {}


async def test_a_long_text_is_encoded_like_a_short_one(model: Model):
    text = "<|start|>" + "hello ab a" * 2000 + "<|end|>"
    assert await model.encoder.encode(text) == model.tokenizer.encode(text, add_special_tokens=False)
