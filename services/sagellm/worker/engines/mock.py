"""The mock engine: the real wire path with no model.

All running requests advance by one token in each step, as in a real engine. With a time per output token the
steps have that period, and a new request joins the next one after its first token; without, a step is one turn
of the event loop.

With a prefill rate prompts are computed one after the other, each without the part that the prefix cache holds.
"""

import asyncio
import time

from sagellm.settings import Settings
from sagellm_engine.contract import Emit, GenerateRequest, ServedModel
from sagellm_schemas import EngineStats, InvalidRequest

from .mock_answer import MockAnswer
from .mock_model import load_mock_model
from .mock_prefix_cache import BLOCK_TOKENS, MockPrefixCache

STEP_MS_WEIGHT = 0.05


class MockEngine:
    """An `AsyncEngine` that says the words of `mock_text` over and over.

    `max_num_seqs` requests run at once; more wait in line.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ttft_s = settings.mock_ttft_ms / 1000
        self._tpot_s = settings.mock_tpot_ms / 1000
        self._prefill_token_s = (
            1 / settings.mock_prefill_tokens_per_s if settings.mock_prefill_tokens_per_s else 0.0
        )
        self._prefilled_s = 0.0
        """When the prompts admitted so far are computed, by the loop's clock."""
        self._prefixes = MockPrefixCache(settings.mock_prefix_blocks)
        self._running: dict[str, MockAnswer] = {}
        self._waiting: dict[str, MockAnswer] = {}
        self._reading: dict[str, asyncio.TimerHandle] = {}
        """Running requests whose first token is not due yet."""
        self._fresh: list[MockAnswer] = []
        """Running requests that had no token yet."""
        self._next_step: asyncio.Handle | None = None
        self._steps_total = self._output_tokens_total = 0
        self._prompt_tokens_total = self._cached_tokens_total = 0
        self._step_ms = 0.0
        self._step_began_s = 0.0
        self._closed = False

    async def start(self, emit: Emit) -> ServedModel:
        """Load the tokenizer; see `AsyncEngine`."""
        self._emit = emit
        self._loop = asyncio.get_running_loop()
        self._model = await asyncio.to_thread(load_mock_model, self._settings)
        return ServedModel(
            card=self._model.card,
            tokenizer_json=self._model.tokenizer_json,
            max_concurrent_requests=self._settings.max_num_seqs,
            adapters=list(self._settings.adapters),
            prefix_block_size=BLOCK_TOKENS if self._settings.mock_prefix_blocks else 0,
        )

    def generate(self, request: GenerateRequest) -> None:
        """See `AsyncEngine`."""
        if request.adapter is not None and request.adapter not in self._settings.adapters:
            raise InvalidRequest(f"there is no adapter {request.adapter!r}", param="adapter")
        answer = MockAnswer(request, self._model)
        if len(self._running) + len(self._reading) < self._settings.max_num_seqs:
            self._admit(answer)
        else:
            self._waiting[answer.id] = answer

    def abort(self, request_id: str) -> None:
        """See `AsyncEngine`."""
        self._waiting.pop(request_id, None)
        self._running.pop(request_id, None)
        if timer := self._reading.pop(request_id, None):
            timer.cancel()
        self._fill()

    def stats(self) -> EngineStats:
        """See `AsyncEngine`."""
        return EngineStats(
            running=len(self._running) + len(self._reading),
            waiting=len(self._waiting),
            steps_total=self._steps_total,
            step_ms=self._step_ms,
            prompt_tokens_total=self._prompt_tokens_total,
            cached_tokens_total=self._cached_tokens_total,
            output_tokens_total=self._output_tokens_total,
        )

    def prefix_changes(self) -> dict[bytes, bool]:
        """See `AsyncEngine`."""
        return self._prefixes.take_changes()

    def healthy(self) -> bool:
        """See `AsyncEngine`."""
        return not self._closed

    async def close(self) -> None:
        """See `AsyncEngine`."""
        self._closed = True
        self._waiting.clear()
        for request_id in [*self._running, *self._reading]:
            self.abort(request_id)
        if self._next_step is not None:
            self._next_step.cancel()
            self._next_step = None

    def _admit(self, answer: MockAnswer) -> None:
        self._prompt_tokens_total += answer.prompt_tokens
        if self._settings.mock_prefix_blocks:
            answer.cached_tokens = self._prefixes.read(answer.prompt_token_ids, answer.prefix_root)
            self._cached_tokens_total += answer.cached_tokens
        delay_s = self._ttft_s + self._prefill_s(answer.prompt_tokens - answer.cached_tokens)
        if delay_s:
            self._reading[answer.id] = self._loop.call_later(delay_s, self._first_token, answer)
        else:
            self._begin(answer)

    def _prefill_s(self, tokens: int) -> float:
        """How long until `tokens` of a prompt are computed, after those of the prompts before."""
        if not self._prefill_token_s:
            return 0.0
        now_s = self._loop.time()
        self._prefilled_s = max(now_s, self._prefilled_s) + tokens * self._prefill_token_s
        return self._prefilled_s - now_s

    def _first_token(self, answer: MockAnswer) -> None:
        del self._reading[answer.id]
        self._begin(answer)

    def _begin(self, answer: MockAnswer) -> None:
        """From now on `answer` is in the batch."""
        self._running[answer.id] = answer
        if self._tpot_s:  # its first token does not wait for the period to end
            if not self._fresh:
                self._loop.call_soon(self._first_step)
            self._fresh.append(answer)
        if self._next_step is None:
            self._schedule()

    def _first_step(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._play([answer for answer in fresh if self._running.get(answer.id) is answer])

    def _schedule(self) -> None:
        self._step_began_s = time.perf_counter()
        if self._tpot_s:
            self._next_step = self._loop.call_later(self._tpot_s, self._step)
        else:
            self._next_step = self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._next_step = None
        self._play(list(self._running.values()))
        step_ms = (time.perf_counter() - self._step_began_s) * 1000  # with the time that it pretends to compute
        self._step_ms += (step_ms - self._step_ms) * (STEP_MS_WEIGHT if self._step_ms else 1.0)
        if self._running and self._next_step is None:
            self._schedule()

    def _play(self, answers: list[MockAnswer]) -> None:
        """One token for each of `answers`."""
        if not answers:
            return
        outputs = [answer.advance() for answer in answers]
        self._steps_total += 1
        self._output_tokens_total += len(outputs)
        for output in outputs:
            if output.finish_reason is not None:
                answer = self._running.pop(output.id)
                if self._settings.mock_prefix_blocks:
                    self._prefixes.keep(answer.token_ids(), answer.prefix_root)
        self._emit(outputs)
        self._fill()

    def _fill(self) -> None:
        """Admit those who wait, as far as there is room."""
        while self._waiting and len(self._running) + len(self._reading) < self._settings.max_num_seqs:
            self._admit(self._waiting.pop(next(iter(self._waiting))))
