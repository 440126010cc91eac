"""One answer of the mock engine: known in full from the start, played token by token."""

from sagellm_engine.contract import GenerateRequest, StepOutput
from sagellm_schemas import (
    ContextLengthExceeded,
    FinishReason,
    InvalidRequest,
    PositionLogprobs,
    SamplingParams,
    TokenLogprob,
    Usage,
)
from sagellm_schemas.prefix import root_of

from .mock_model import MockModel

DEFAULT_OUTPUT_TOKENS = 64


class MockAnswer:
    """Plays from the first token that the reader does not hold.

    Raises:
        InvalidRequest: the prompt is empty, has an unknown token, or does not fit the context with its answer.
    """

    __slots__ = (
        "_finish_reason",
        "_logprobs",
        "_model",
        "_stop_reason",
        "_texts",
        "cached_tokens",
        "end",
        "id",
        "position",
        "prefix_root",
        "prompt_token_ids",
        "prompt_tokens",
    )

    def __init__(self, request: GenerateRequest, model: MockModel) -> None:
        sampling = request.sampling
        self.id = request.id
        self.prefix_root = root_of(request.adapter)
        self.position = len(request.resume_token_ids)
        self.prompt_token_ids = request.prompt_token_ids
        self.prompt_tokens = len(request.prompt_token_ids)
        self.cached_tokens = 0
        _check_prompt(request.prompt_token_ids, model)
        self.end, self._finish_reason = _length(sampling, self.prompt_tokens, model.card.max_model_len)
        self._model = model
        self._logprobs = sampling.logprobs is not None
        self._stop_reason: str | int | None = None
        self._texts: dict[int, str] = {}
        """Where a stop string makes the text of a token other than the model's."""
        if sampling.stop or sampling.stop_token_ids:
            self._stop_early(sampling)

    def advance(self) -> StepOutput:
        """The next token; with the last one, the end."""
        position, model = self.position, self._model
        if position >= self.end:  # the reader holds every token already, but has not heard that it is the end
            output = StepOutput(id=self.id, offset=position)
        else:
            # Straight from the model's lists: this line is the mock's whole cost per token.
            single = model.singles[position % len(model.singles)]
            output = StepOutput(id=self.id, offset=position, token_ids=single, text=model.piece(position))
            if self._texts:
                output.text = self._texts.get(position, output.text)
            if self._logprobs:
                output.logprobs = [_certain(single[0], model.piece(position))]
        self.position = position + 1
        if self.position >= self.end:
            output.finish_reason = self._finish_reason
            output.stop_reason = self._stop_reason
            output.usage = Usage(
                prompt_tokens=self.prompt_tokens, completion_tokens=self.end, cached_tokens=self.cached_tokens
            )
        return output

    def token_ids(self) -> list[int]:
        """The prompt, and the whole answer."""
        singles = self._model.singles
        return self.prompt_token_ids + [singles[position % len(singles)][0] for position in range(self.end)]

    def _stop_early(self, sampling: SamplingParams) -> None:
        """Find the first stop token or stop string that ends after `min_tokens`, and end the answer there."""
        model = self._model
        text = ""
        for position in range(self.end):
            token_id, before = model.singles[position % len(model.singles)][0], len(text)
            text += model.piece(position)
            if position + 1 < sampling.min_tokens:
                continue
            if token_id in sampling.stop_token_ids:
                self._stop_at(position, before, token_id)
                return
            # Only a match that ends within this token is new.
            found = [(text.find(stop, max(0, before - len(stop) + 1)), stop) for stop in sampling.stop]
            hits = [hit for hit in found if hit[0] >= 0]
            if hits:
                start, stop = min(hits)
                self._stop_at(position, start, stop)
                return

    def _stop_at(self, last: int, cut: int, reason: str | int) -> None:
        """End with token `last`, and the text before character `cut`."""
        self.end, self._finish_reason, self._stop_reason = last + 1, FinishReason.STOP, reason
        begin = 0
        for position in range(self.end):
            piece = self._model.piece(position)
            if begin + len(piece) > cut:
                self._texts[position] = piece[: max(0, cut - begin)]
            begin += len(piece)


def _check_prompt(token_ids: list[int], model: MockModel) -> None:
    if not token_ids:
        raise InvalidRequest("the prompt must have at least one token", param="prompt")
    if min(token_ids) < 0 or max(token_ids) >= model.card.vocab_size:
        raise InvalidRequest(
            f"prompt_token_ids must be between 0 and {model.card.vocab_size - 1}", param="prompt_token_ids"
        )


def _length(sampling: SamplingParams, prompt_tokens: int, context: int) -> tuple[int, FinishReason]:
    """How many tokens the answer has, and why it ends there: without `max_tokens` it comes to an end by itself."""
    room = context - prompt_tokens
    if room < max(1, sampling.max_tokens or 1):
        raise ContextLengthExceeded(
            f"the context holds {context} tokens; the prompt has {prompt_tokens} and max_tokens is "
            f"{sampling.max_tokens or 'not given'}",
            param="max_tokens" if room > 0 else "prompt",
        )
    if sampling.max_tokens is not None:
        return sampling.max_tokens, FinishReason.LENGTH
    if sampling.ignore_eos:
        return room, FinishReason.LENGTH
    return min(room, max(DEFAULT_OUTPUT_TOKENS, sampling.min_tokens)), FinishReason.STOP


def _certain(token_id: int, text: str) -> PositionLogprobs:
    """The mock is always sure of itself."""
    chosen = TokenLogprob(token_id=token_id, token=text, logprob=0.0, bytes=list(text.encode()))
    return PositionLogprobs(chosen=chosen, top=[chosen])
