"""From vLLM's chunks to outputs: two ways, with our tokenizer and without."""

from collections.abc import Iterator
from typing import Protocol

from sagellm_engine.answer import Answer
from sagellm_engine.contract import GenerateRequest, StepOutput
from sagellm_engine.tokenizer import Tokenizer
from sagellm_schemas import FinishReason, PositionLogprobs, TokenLogprob, Usage

from .vllm_request import TOKEN_PREFIX
from .vllm_stream import Choice, Logprobs, StreamUsage

UNKNOWN_TOKEN = -1
"""The id of an alternative that the server names by its text only."""


class VllmAnswer(Protocol):
    """Follows one answer."""

    def push(self, choice: Choice) -> StepOutput | None:
        """What is new with `choice`; None if nothing is."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the answer has ended by our own rules, so that the server need not go on."""
        ...

    def end(self, usage: StreamUsage) -> StepOutput:
        """The last output, once nothing more comes."""
        ...


class DecodedAnswer:
    """Decodes the tokens itself, by the engine's own rules.

    So the text depends on the tokens alone: an answer that began on another worker goes on without a seam, also
    within a character or a stop string.
    """

    def __init__(self, request: GenerateRequest, tokenizer: Tokenizer, eos: list[int], max_tokens: int) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._answer = Answer(tokenizer, request.sampling, eos_token_ids=eos, max_tokens=max_tokens)
        self._finish_reason: FinishReason | None = None
        for token_id in request.resume_token_ids:
            if not self.complete:
                self._answer.push(token_id)

    @property
    def complete(self) -> bool:
        """See `VllmAnswer`."""
        return self._answer.finish_reason is not None

    def push(self, choice: Choice) -> StepOutput | None:
        """See `VllmAnswer`."""
        output = StepOutput(id=self._request.id, offset=self._answer.num_tokens)
        for token_id in choice.token_ids or ():
            if self.complete:
                break
            output.text += self._answer.push(token_id)
            output.token_ids.append(token_id)
        if self._request.sampling.logprobs is not None and choice.logprobs:
            everything = _completion_logprobs(choice.logprobs, self._request.sampling.logprobs, self._tokenizer)
            output.logprobs = everything[: len(output.token_ids)]
        self._finish_reason = _finish_reason(choice) or self._finish_reason
        return output if output.token_ids else None

    def end(self, usage: StreamUsage) -> StepOutput:
        """See `VllmAnswer`."""
        counted = Usage(
            prompt_tokens=len(self._request.prompt_token_ids),
            completion_tokens=self._answer.num_tokens,
            cached_tokens=_cached(usage),
        )
        return StepOutput(
            id=self._request.id,
            offset=self._answer.num_tokens,
            finish_reason=self._answer.finish_reason or self._finish_reason or FinishReason.STOP,
            stop_reason=self._answer.stop_reason,
            usage=counted,
        )


class TextAnswer:
    """Passes on the server's text: for a model whose tokenizer only the server has."""

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._offset = len(request.resume_token_ids)
        self._last: Choice | None = None

    @property
    def complete(self) -> bool:
        """Never by our own rules."""
        return False

    def push(self, choice: Choice) -> StepOutput | None:
        """See `VllmAnswer`."""
        output = StepOutput(
            id=self._request.id, offset=self._offset, token_ids=choice.token_ids or [], text=choice.new_text
        )
        if self._request.sampling.logprobs is not None and choice.logprobs:
            output.logprobs = _text_logprobs(choice, self._request.sampling.logprobs)
        self._offset += len(output.token_ids)
        if choice.finish_reason is not None:
            self._last = choice
        return output if output.token_ids or output.text else None

    def end(self, usage: StreamUsage) -> StepOutput:
        """See `VllmAnswer`."""
        resumed = len(self._request.resume_token_ids)
        return StepOutput(
            id=self._request.id,
            offset=self._offset,
            finish_reason=(_finish_reason(self._last) if self._last else None) or FinishReason.STOP,
            stop_reason=self._last.stop_reason if self._last else None,
            usage=Usage(
                prompt_tokens=usage.prompt_tokens - resumed,
                completion_tokens=(usage.completion_tokens or 0) + resumed,
                cached_tokens=_cached(usage),
            ),
        )


def _finish_reason(choice: Choice) -> FinishReason | None:
    if choice.finish_reason is None:
        return None
    return FinishReason.LENGTH if choice.finish_reason == "length" else FinishReason.STOP


def _cached(usage: StreamUsage) -> int:
    details = usage.prompt_tokens_details
    return (details.cached_tokens or 0) if details else 0


def _completion_logprobs(logprobs: Logprobs, top: int, tokenizer: Tokenizer) -> list[PositionLogprobs]:
    """A completion's parallel lists as positions, where the server names tokens by their ids."""

    def token(name: str, logprob: float) -> TokenLogprob:
        token_id = int(name.removeprefix(TOKEN_PREFIX))
        text = tokenizer.token_text(token_id)
        return TokenLogprob(token_id=token_id, token=text, logprob=logprob, bytes=list(text.encode()))

    return [
        PositionLogprobs(chosen=token(name, logprob), top=[token(*pair) for pair in best[:top]])
        for name, logprob, best in _positions(logprobs)
    ]


def _text_logprobs(choice: Choice, top: int) -> list[PositionLogprobs]:
    """Log probabilities of tokens of which we know no more than their texts, and the ids of the chosen ones."""
    assert choice.logprobs is not None
    token_ids = choice.token_ids or []
    if choice.logprobs.content is not None:
        return [
            PositionLogprobs(
                chosen=_by_text(token_id, position.token, position.logprob, position.bytes),
                top=[_by_text(UNKNOWN_TOKEN, o.token, o.logprob, o.bytes) for o in position.top_logprobs[:top]],
            )
            for position, token_id in zip(choice.logprobs.content, token_ids, strict=False)
        ]
    return [
        PositionLogprobs(
            chosen=_by_text(token_id, text, logprob),
            top=[_by_text(UNKNOWN_TOKEN, *pair) for pair in best[:top]],
        )
        for (text, logprob, best), token_id in zip(_positions(choice.logprobs), token_ids, strict=False)
    ]


def _positions(logprobs: Logprobs) -> Iterator[tuple[str, float, list[tuple[str, float]]]]:
    """Of each position of a completion the chosen token, its log probability, and the best ones in order.

    The server may have added the chosen token to the best ones.
    """
    best_of = logprobs.top_logprobs or [None] * len(logprobs.tokens)
    for name, logprob, best in zip(logprobs.tokens, logprobs.token_logprobs, best_of, strict=False):
        yield name, logprob or 0.0, sorted((best or {}).items(), key=lambda pair: -pair[1])


def _by_text(token_id: int, text: str, logprob: float, raw: list[int] | None = None) -> TokenLogprob:
    return TokenLogprob(token_id=token_id, token=text, logprob=logprob, bytes=raw or list(text.encode()))
