"""What the mock engine serves: a tokenizer, a card, and the words it says."""

import json
import time

import msgspec
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from sagellm.settings import Settings
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import ModelCard, ModelLoadError

from .files_at_hand import card_at_hand

MOCK = "mock"
"""The model name that means: no model files, even if there are some of that name."""
MAX_MODEL_LEN = 32_768
VOCABULARY = 1024
BEGIN, END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class MockModel(msgspec.Struct, frozen=True):
    """`singles` is one round of the text, each token in a list of its own, ready to be sent.

    `first` are the texts of the first round's tokens, `later` those of all other rounds: some tokenizers write no
    space before the very first word.
    """

    card: ModelCard
    tokenizer_json: bytes
    singles: list[list[int]]
    first: list[str]
    later: list[str]

    def piece(self, position: int) -> str:
        """The text of the output token at `position`."""
        period = len(self.singles)
        return self.first[position] if position < period else self.later[position % period]


def load_mock_model(settings: Settings) -> MockModel:
    """The tokenizer of `settings.model` if its files are at hand, else a small one made of `mock_text`.

    Raises:
        ModelLoadError: `settings.model` is a path, and there is no model in it.
    """
    card, tokenizer_json = (None if settings.model == MOCK else card_at_hand(settings)) or _made_up(settings)
    try:
        tokenizer = Tokenizer(tokenizer_json, card)
    except ValueError as error:
        raise ModelLoadError(f"the tokenizer of {card.name} cannot be used: {error}") from None
    token_ids = tokenizer.encode(settings.mock_text, add_special_tokens=False)
    if not token_ids:
        raise ModelLoadError(f"SAGELLM_MOCK_TEXT has no tokens in the vocabulary of {card.name}")
    stream = tokenizer.stream()
    first, later = ([stream.push(token_id) for token_id in token_ids] for _ in range(2))
    return MockModel(card, tokenizer_json, [[token_id] for token_id in token_ids], first, later)


def _made_up(settings: Settings) -> tuple[ModelCard, bytes]:
    tokenizer_json = train_tokenizer(settings.mock_text)
    tokens = {token["content"]: token["id"] for token in json.loads(tokenizer_json)["added_tokens"]}
    card = ModelCard(
        name=settings.served_name or settings.model,
        max_model_len=settings.max_model_len or MAX_MODEL_LEN,
        chat_template=CHATML,
        eos_token=END,
        eos_token_ids=[tokens[END]],
        vocab_size=HFTokenizer.from_buffer(tokenizer_json).get_vocab_size(with_added_tokens=True),
        created=int(time.time()),
    )
    return card, tokenizer_json


def train_tokenizer(text: str) -> bytes:
    """A byte-level BPE in which every word of `text` is one token, and any other text is its bytes."""
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text, " " + text], trainer)
    return tokenizer.to_str().encode()
