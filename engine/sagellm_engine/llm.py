"""`LLM`: the engine as a library, for answers to a list of prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sagellm_schemas import (
    ChatMessage,
    FinishReason,
    InvalidRequest,
    PositionLogprobs,
    SageError,
    SamplingParams,
    Usage,
)

from .contract import GenerateRequest, StepOutput
from .engine import Engine
from .engine_config import EngineConfig

Prompt = str | list[int] | list[ChatMessage] | list[dict[str, Any]]
"""Text, token ids, or a conversation as `ChatMessage`s or as dicts with `role` and `content`."""


class GenerationResult(msgspec.Struct, kw_only=True):
    """One answer. `error` is set when the engine failed on it; the rest is then what it had so far."""

    text: str = ""
    token_ids: list[int] = msgspec.field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    logprobs: list[PositionLogprobs] | None = None
    usage: Usage = Usage()
    error: SageError | None = None


class LLM:
    """A model ready to answer.

        llm = LLM("smollm2-135m-instruct")
        [answer] = llm.generate("Why is the sky blue?", SamplingParams(max_tokens=64, temperature=0))

    `options` are the fields of `EngineConfig`.
    """

    def __init__(self, model: str, **options: Any) -> None:
        """
        Raises:
            SettingsError: an option is out of range.
            ModelLoadError: the model cannot be loaded.
            OutOfMemory: weights or KV cache do not fit.
        """
        self.engine = Engine(EngineConfig(model=model, **options))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | None = None,
        progress: bool = False,
    ) -> list[GenerationResult]:
        """Answer every prompt, all at once as far as they fit; results are in the order of the prompts.

        `params` is for all prompts, or has one entry for each. `adapter` names one of the engine's LoRA
        adapters, for all prompts. `progress` shows a bar.

        Raises:
            InvalidRequest: a prompt or parameter cannot be run; nothing has been started then.
        """
        requests = self._requests(_as_list(prompts), params, adapter)
        for request in requests:
            self.engine.verify(request)
        results = {request.id: GenerationResult() for request in requests}
        for request in requests:
            self.engine.add_request(request)
        try:
            with _bar(len(requests), shown=progress) as bar:
                while self.engine.has_work:
                    for output in self.engine.step():
                        _extend(results[output.id], output)
                        if output.finish_reason is not None or output.error is not None:
                            bar.advance(bar.task_ids[0])
        finally:
            for request in requests:
                self.engine.abort(request.id)
        return list(results.values())

    def _requests(
        self,
        prompts: list[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        adapter: str | None,
    ) -> list[GenerateRequest]:
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        if len(params) != len(prompts):
            raise InvalidRequest(f"there are {len(prompts)} prompts and {len(params)} sampling parameters")
        return [
            GenerateRequest(
                id=str(index), prompt_token_ids=self._tokens(prompt), sampling=sampling, adapter=adapter
            )
            for index, (prompt, sampling) in enumerate(zip(prompts, params, strict=True))
        ]

    def _tokens(self, prompt: Prompt) -> list[int]:
        tokenizer = self.engine.tokenizer
        if isinstance(prompt, str):
            return tokenizer.encode(prompt)
        if all(isinstance(item, int) for item in prompt):
            return cast("list[int]", prompt)
        try:
            messages = msgspec.convert(prompt, list[ChatMessage])
        except msgspec.ValidationError as error:
            raise InvalidRequest(
                f"a prompt is text, token ids or chat messages: {error}", param="prompt"
            ) from None
        return tokenizer.encode(tokenizer.render(messages), add_special_tokens=False)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt becomes a list of one."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int | dict | ChatMessage)):
        return [cast("Prompt", prompts)]
    return list(cast("Sequence[Prompt]", prompts))


def _extend(result: GenerationResult, output: StepOutput) -> None:
    result.text += output.text
    result.token_ids += output.token_ids
    if output.logprobs is not None:
        result.logprobs = (result.logprobs or []) + output.logprobs
    result.finish_reason = output.finish_reason
    result.stop_reason = output.stop_reason
    result.usage = output.usage or result.usage
    result.error = output.error


@contextmanager
def _bar(total: int, *, shown: bool) -> Iterator[Progress]:
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not shown) as bar:
        bar.add_task("answers", total=total)
        yield bar
