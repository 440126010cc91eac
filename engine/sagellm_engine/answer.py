"""`Answer`: the text of one answer, and the rules of when it ends."""

from sagellm_schemas import FinishReason, SamplingParams

from .detokenizer import Detokenizer
from .tokenizer import Tokenizer


class Answer:
    """Follows an answer token by token. Once `finish_reason` is set it is complete.

    `stop_reason` is the stop string or stop token id that ended it. A token that ends it is part of the answer's
    tokens but not of its text.
    """

    def __init__(
        self, tokenizer: Tokenizer, sampling: SamplingParams, *, eos_token_ids: list[int], max_tokens: int
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.num_tokens = 0
        self._detokenizer = Detokenizer(tokenizer, sampling.stop, sampling.min_tokens)
        self._eos_token_ids = frozenset(() if sampling.ignore_eos else eos_token_ids)
        self._stop_token_ids = frozenset(sampling.stop_token_ids)
        self._min_tokens = sampling.min_tokens
        self._max_tokens = max_tokens

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that is final with it."""
        assert self.finish_reason is None, "a complete answer takes no more tokens"
        self.num_tokens += 1
        if self.num_tokens > self._min_tokens and token_id in self._eos_token_ids | self._stop_token_ids:
            self.finish_reason = FinishReason.STOP
            self.stop_reason = token_id if token_id in self._stop_token_ids else None
            return self._detokenizer.flush()
        text = self._detokenizer.push(token_id)
        if self._detokenizer.stop_string is not None:
            self.finish_reason = FinishReason.STOP
            self.stop_reason = self._detokenizer.stop_string
        elif self.num_tokens >= self._max_tokens:
            self.finish_reason = FinishReason.LENGTH
            text += self._detokenizer.flush()
        return text
