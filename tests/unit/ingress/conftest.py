"""A small tokenizer with special tokens, and a model that has it."""

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from sagellm.ingress.models import Model
from sagellm.ingress.prompts import PromptEncoder
from sagellm_engine import Tokenizer
from sagellm_schemas import ModelCard

SPECIAL = ["<|start|>", "<|end|>", "<|end|>?"]


@pytest.fixture(scope="session")
def tokenizer_json() -> bytes:
    """Every byte is a token, and so are some pairs of letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("ab", "a"), ("Ġ", "a"), ("l", "l"), ("e", "ll")]
    tokens = alphabet + ["".join(merge) for merge in merges]
    made = HFTokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return made.to_str().encode()


@pytest.fixture(scope="session")
def model(tokenizer_json: bytes) -> Model:
    """A model with a context of 100 tokens."""
    card = ModelCard(
        name="tiny",
        max_model_len=100,
        tokenizer="tiny-1",
        chat_template="{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}",
    )
    tokenizer = Tokenizer(tokenizer_json, card)
    return Model(card, "sagellm.v1.requests.tiny", tokenizer, PromptEncoder(tokenizer, tokenizer_json))
