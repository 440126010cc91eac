"""`Engine`: requests in, tokens and text out, one step at a time. One thread uses it."""

import hashlib
import logging
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sagellm_schemas import (
    ContextLengthExceeded,
    EngineError,
    EngineStats,
    InvalidRequest,
    ModelCard,
    PositionLogprobs,
    TokenLogprob,
    Usage,
)

from .answer import Answer
from .block_manager import BlockManager
from .contract import GenerateRequest, StepOutput
from .engine_config import EngineConfig
from .loader import Checkpoint, open_checkpoint
from .loader.progress import LoadProgress
from .lora import load_adapter
from .model_runner import ModelRunner
from .sampler import Sampled
from .scheduler import Scheduler
from .sequence import Sequence
from .speculation.make import make_speculator, open_draft
from .tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Request:
    sequence: Sequence
    answer: Answer


class Engine:
    """A model that answers many requests at once."""

    def __init__(
        self,
        config: EngineConfig,
        checkpoint: Checkpoint | None = None,
        progress: LoadProgress | None = None,
    ) -> None:
        """Load the model, from `checkpoint` if it is open already; `progress` is told how far it is.

        Raises:
            SettingsError: a setting is out of range.
            ModelLoadError: the model or an adapter cannot be loaded.
            OutOfMemory: weights or KV cache do not fit.
        """
        config.verify()
        checkpoint = checkpoint or open_checkpoint(config.model)
        adapters = [
            load_adapter(name, Path(folder).expanduser(), checkpoint.config)
            for name, folder in config.adapters.items()
        ]
        draft = open_draft(config, checkpoint)
        self.runner = ModelRunner(config, checkpoint, adapters, progress, draft.config if draft else None)
        self.adapters = list(config.adapters)
        self.card = _card(config, checkpoint, self.runner.max_model_len)
        self.tokenizer_json = checkpoint.tokenizer_json
        self.tokenizer = Tokenizer(checkpoint.tokenizer_json, self.card)
        self.blocks = BlockManager(
            self.runner.num_blocks, config.block_size, enable_prefix_caching=config.enable_prefix_caching
        )
        self._speculator = make_speculator(config, self.runner, checkpoint, draft)
        self.scheduler = Scheduler(
            self.blocks,
            max_num_seqs=config.max_num_seqs,
            max_batched_tokens=config.max_batched_tokens,
            max_chunk_tokens=config.max_chunk_tokens,
            drafter=self._speculator,
        )
        self._vocab_size = checkpoint.config.vocab_size
        self._requests: dict[str, _Request] = {}
        self._ended_at_once: list[StepOutput] = []
        self._arrivals = 0
        self._steps_total = 0
        self._step_ms = 0.0
        self._step_ms_total = 0.0
        self._prompt_tokens_total = 0
        self._cached_tokens_total = 0
        self._output_tokens_total = 0
        self._computed_tokens_total = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._requests or self._ended_at_once)

    def verify(self, request: GenerateRequest) -> None:
        """Check that `request` can run here; safe on any thread.

        Raises:
            ContextLengthExceeded: prompt and output do not fit the context.
            InvalidRequest: no prompt, an unknown token id or adapter, or a sampling parameter out of range.
        """
        request.sampling.verify()
        if request.adapter is not None and request.adapter not in self.adapters:
            raise InvalidRequest(
                f"there is no adapter {request.adapter!r}; there are: {', '.join(self.adapters) or 'none'}",
                param="adapter",
            )
        prompt_tokens, limit = len(request.prompt_token_ids), self.card.max_model_len
        if not prompt_tokens:
            raise InvalidRequest("the prompt is empty", param="prompt")
        for name in ("prompt_token_ids", "resume_token_ids"):
            ids = getattr(request, name)
            if ids and not (min(ids) >= 0 and max(ids) < self._vocab_size):
                wrong = next(i for i in ids if not 0 <= i < self._vocab_size)
                raise InvalidRequest(
                    f"{name} has {wrong}; token ids go from 0 to {self._vocab_size - 1}", param=name
                )
        if prompt_tokens >= limit:
            raise ContextLengthExceeded(
                f"the prompt has {prompt_tokens} tokens; this model's context of {limit} tokens must hold the "
                "prompt and at least one token of output",
                param="prompt",
            )
        wanted = request.sampling.max_tokens
        if wanted is not None and prompt_tokens + wanted > limit:
            raise ContextLengthExceeded(
                f"the prompt has {prompt_tokens} tokens and max_tokens asks for {wanted} more; this model's "
                f"context is {limit} tokens, so max_tokens can be at most {limit - prompt_tokens}",
                param="max_tokens",
            )

    def add_request(self, request: GenerateRequest) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: it can never run here (see `verify`), or its id is in use.
        """
        self.verify(request)
        if request.id in self._requests:
            raise InvalidRequest(f"a request with id {request.id!r} is running already", param="id")
        sampling = request.sampling
        max_tokens = sampling.max_tokens or self.card.max_model_len - len(request.prompt_token_ids)
        answer = Answer(self.tokenizer, sampling, eos_token_ids=self.card.eos_token_ids, max_tokens=max_tokens)
        resumed: list[int] = []
        for token_id in request.resume_token_ids:
            if answer.finish_reason is not None:
                break
            answer.push(token_id)
            resumed.append(token_id)
        sequence = Sequence(
            request.id,
            list(request.prompt_token_ids),
            sampling,
            max_tokens=max_tokens,
            seed=random.getrandbits(63) if sampling.seed is None else sampling.seed,
            resume_token_ids=resumed,
            priority=request.priority,
            arrival=self._arrivals,
            tbt_slo_s=None if request.tbt_slo_ms is None else request.tbt_slo_ms / 1e3,
            adapter=request.adapter,
        )
        self._arrivals += 1
        if answer.finish_reason is not None:  # the reader lacks nothing but the news
            self._ended_at_once.append(_output(_Request(sequence, answer), [], ""))
            return
        self._requests[request.id] = _Request(sequence, answer)
        self.scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """Forget a request and free what it holds; unknown ids are ignored."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            self.scheduler.remove(request.sequence)

    def step(self) -> list[StepOutput]:
        """Run one step; returns what became of each request that got a token, ended or failed."""
        started = time.perf_counter()
        outputs, self._ended_at_once = self._ended_at_once, []
        plan = self.scheduler.schedule(started)
        try:
            sampled = self.runner.run(plan) if plan else {}
        except Exception as error:
            log.exception("an engine step failed; its %d requests end here", len(plan))
            return outputs + self._fail(plan, error)
        sampled_s = time.perf_counter()
        self.scheduler.took(sampled_s - started)
        self._computed_tokens_total += sum(plan.values())
        moved = {sequence: self._update(sequence, result, sampled_s) for sequence, result in sampled.items()}
        self.scheduler.complete(plan)
        outputs += [self._settle(sequence, output) for sequence, output in moved.items()]
        self._note_step(started)
        return outputs

    def stats(self) -> EngineStats:
        """Counters and load."""
        return EngineStats(
            running=self.scheduler.num_running,
            waiting=self.scheduler.num_waiting,
            kv_blocks=self.blocks.num_blocks,
            kv_blocks_free=self.blocks.num_free,
            steps_total=self._steps_total,
            step_ms=self._step_ms,
            step_ms_total=round(self._step_ms_total, 3),
            prompt_tokens_total=self._prompt_tokens_total,
            cached_tokens_total=self._cached_tokens_total,
            output_tokens_total=self._output_tokens_total,
            preemptions_total=self.scheduler.preemptions_total,
            chunk_tokens=self.scheduler.chunk_tokens,
            computed_tokens_total=self._computed_tokens_total,
            speculation=self._speculator.stats() if self._speculator else None,
        )

    def _update(
        self, sequence: Sequence, result: list[Sampled] | EngineError, now_s: float
    ) -> StepOutput | Exception:
        """Append the new tokens, up to the one that ends the answer."""
        if isinstance(result, EngineError):
            return result
        request = self._requests[sequence.id]
        answer = request.answer
        if not answer.num_tokens:
            self._prompt_tokens_total += sequence.num_prompt
            self._cached_tokens_total += sequence.num_cached or 0
        sequence.token_s = now_s
        token_ids: list[int] = []
        logprobs: list[PositionLogprobs] = []
        text = ""
        try:
            for sampled in result:
                sequence.token_ids.append(sampled.token_id)
                token_ids.append(sampled.token_id)
                text += answer.push(sampled.token_id)
                if sampled.logprob is not None:
                    logprobs.append(self._logprobs(sampled, sampled.logprob))
                if answer.finish_reason is not None:
                    break
        except Exception as error:
            log.exception("request %s failed", sequence.id)
            return error
        self._output_tokens_total += len(token_ids)
        output = _output(request, token_ids, text)
        output.logprobs = logprobs or None
        return output

    def _settle(self, sequence: Sequence, output: StepOutput | Exception) -> StepOutput:
        """Let go of a sequence that has ended; an error ends this one alone."""
        if isinstance(output, Exception):
            return self._fail([sequence], output)[0]
        if output.finish_reason is not None:
            self.scheduler.remove(sequence)
            del self._requests[sequence.id]
        return output

    def _fail(self, sequences: Iterable[Sequence], error: Exception) -> list[StepOutput]:
        failure = error if isinstance(error, EngineError) else EngineError(f"the engine failed: {error}")
        outputs = []
        for sequence in sequences:
            # What the blocks hold now is uncertain: nobody may share it, and NaN in it would spread.
            self.runner.clear(self.scheduler.remove(sequence, forget=True))
            self._requests.pop(sequence.id, None)
            outputs.append(StepOutput(id=sequence.id, offset=sequence.num_output, error=failure))
        return outputs

    def _logprobs(self, result: Sampled, logprob: float) -> PositionLogprobs:
        return PositionLogprobs(
            chosen=self._token_logprob(result.token_id, logprob),
            top=[self._token_logprob(token_id, value) for token_id, value in result.top],
        )

    def _token_logprob(self, token_id: int, logprob: float) -> TokenLogprob:
        text = self.tokenizer.token_text(token_id)
        return TokenLogprob(token_id=token_id, token=text, logprob=logprob, bytes=list(text.encode()))

    def _note_step(self, started: float) -> None:
        elapsed_ms = (time.perf_counter() - started) * 1e3
        self._steps_total += 1
        self._step_ms_total += elapsed_ms
        self._step_ms = elapsed_ms if self._steps_total == 1 else 0.9 * self._step_ms + 0.1 * elapsed_ms


def _output(request: _Request, token_ids: list[int], text: str) -> StepOutput:
    sequence, answer = request.sequence, request.answer
    output = StepOutput(id=sequence.id, offset=answer.num_tokens - len(token_ids), token_ids=token_ids, text=text)
    if answer.finish_reason is not None:
        output.finish_reason = answer.finish_reason
        output.stop_reason = answer.stop_reason
        output.usage = Usage(
            prompt_tokens=sequence.num_prompt,
            completion_tokens=answer.num_tokens,
            cached_tokens=sequence.num_cached or 0,
        )
    return output


def _card(config: EngineConfig, checkpoint: Checkpoint, max_model_len: int) -> ModelCard:
    return ModelCard(
        name=config.name or checkpoint.name,
        max_model_len=max_model_len,
        tokenizer=hashlib.sha256(checkpoint.tokenizer_json).hexdigest()[:32],
        chat_template=checkpoint.chat_template,
        bos_token=checkpoint.bos_token,
        eos_token=checkpoint.eos_token,
        eos_token_ids=checkpoint.eos_token_ids,
        vocab_size=checkpoint.config.vocab_size,
        created=int(time.time()),
    )
