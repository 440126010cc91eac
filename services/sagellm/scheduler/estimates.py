"""What requests will probably take: from step times and the lengths of earlier answers. Pure: no clock, no I/O."""

from dataclasses import dataclass
from math import ceil
from statistics import fmean

from sagellm.scheduler.instances import STEPS_AHEAD
from sagellm.scheduler.output_lengths import OutputLengths
from sagellm.scheduler.prediction_errors import PredictionError
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.step_times import PRIOR, Pace, StepTimes
from sagellm_schemas import InstanceStats

DEFAULT_CHUNK_TOKENS = 512


@dataclass(slots=True)
class _Worker:
    model: str
    steps: StepTimes
    running: float = 0.0
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    price_per_hour: float = 0.0


@dataclass(slots=True)
class ModelPace:
    """How a model's instances do at present, on average: a step without prompts, and a token of a prompt."""

    step_s: float
    prompt_token_s: float
    chunk_tokens: int
    interval_s: float
    """From one output token to the next."""
    output_token_s: float
    """What of an instance's time one output token takes, as it shares its step with others."""
    instances: int = 1
    lowest_price: float = 0.0
    highest_price: float = 0.0
    """Per hour."""


def _pace_of(workers: list[_Worker]) -> ModelPace:
    paces = [(worker.steps.pace, worker) for worker in workers]
    interval_s = fmean(
        worker.steps.mean_step_s or pace.step_s(worker.running, worker.running) for pace, worker in paces
    )
    running = fmean(worker.running for worker in workers)
    token_s = fmean(pace.per_token_s + pace.per_running_s for pace, _ in paces)
    return ModelPace(
        step_s=fmean(pace.step_s(worker.running, worker.running) for pace, worker in paces),
        prompt_token_s=fmean(pace.per_token_s for pace, _ in paces),
        chunk_tokens=max(1, round(fmean(worker.chunk_tokens for worker in workers))),
        interval_s=interval_s,
        output_token_s=token_s + fmean(pace.base_s for pace, _ in paces) / max(1.0, running),
        instances=len(workers),
        lowest_price=min(worker.price_per_hour for worker in workers),
        highest_price=max(worker.price_per_hour for worker in workers),
    )


UNSEEN = ModelPace(PRIOR.base_s, PRIOR.per_token_s, DEFAULT_CHUNK_TOKENS, PRIOR.base_s, PRIOR.base_s)


class Estimates:
    """The outlook of policies, and the source of every prediction that users see.

    It learns from heartbeats (`heard`), and from how requests go (`dispatched`, `ended`). Answers are O(1).
    """

    def __init__(self) -> None:
        self.load = 0.0
        self.lengths = OutputLengths()
        self.output_error = PredictionError()
        """Of output lengths, in tokens."""
        self.first_token_error = PredictionError()
        """Of the time from dispatch to the first token, in seconds."""
        self.finish_error = PredictionError()
        """Of the time from dispatch to the end, in seconds."""
        self._workers: dict[str, _Worker] = {}
        self._paces: dict[str, ModelPace] = {}
        self._predicted: dict[int, tuple[float, float, float, int]] = {}

    def heard(self, heartbeat: InstanceStats) -> None:
        """Learn from a heartbeat."""
        info, stats = heartbeat.info, heartbeat.stats
        worker = self._workers.get(info.instance_id)
        if worker is None or worker.model != info.model:
            worker = self._workers[info.instance_id] = _Worker(info.model, StepTimes(self._prior(info.model)))
        worker.steps.heard(stats)
        worker.running = stats.running
        worker.price_per_hour = info.price_per_hour
        worker.chunk_tokens = stats.chunk_tokens or info.max_batched_tokens or DEFAULT_CHUNK_TOKENS
        self._paces.pop(info.model, None)

    def forget(self, instance_id: str) -> None:
        """An instance has gone."""
        worker = self._workers.pop(instance_id, None)
        if worker is not None:
            self._paces.pop(worker.model, None)

    def pace(self, model: str) -> ModelPace:
        """How a model's instances do at present."""
        found = self._paces.get(model)
        if found is None:
            workers = [worker for worker in self._workers.values() if worker.model == model]
            found = self._paces[model] = _pace_of(workers) if workers else UNSEEN
        return found

    def prefill_s(self, request: TrackedRequest) -> float:
        """From dispatch to the first new token: the prompt in chunks, beside what runs.

        On a busy instance it first waits for the end of a step, and for prompts that came before it.
        """
        pace = self.pace(request.request.model)
        tokens = request.prompt_tokens + len(request.resume_token_ids)
        alone_s = ceil(tokens / pace.chunk_tokens) * pace.step_s + tokens * pace.prompt_token_s
        return alone_s + pace.interval_s * (1 + STEPS_AHEAD) / 2

    def instances(self, request: TrackedRequest) -> int:
        """How many instances serve its model, at least 1."""
        return self.pace(request.request.model).instances

    def lowest_price(self, request: TrackedRequest) -> float:
        """The lowest price per hour among the instances of its model, free or not; 0 if there are none."""
        return self.pace(request.request.model).lowest_price

    def prices_differ(self, request: TrackedRequest) -> bool:
        """Whether the instances of its model differ in price."""
        pace = self.pace(request.request.model)
        return pace.lowest_price < pace.highest_price

    def work_s(self, request: TrackedRequest) -> float:
        """How much of an instance's time it takes: less than it lasts, since others run beside it."""
        pace = self.pace(request.request.model)
        left = self.output_tokens(request) - len(request.resume_token_ids)
        tokens = request.prompt_tokens + len(request.resume_token_ids)
        return tokens * pace.prompt_token_s + max(0, left) * pace.output_token_s

    def service_s(self, request: TrackedRequest) -> float:
        """From dispatch to the last token, if the answer is as long as is expected."""
        return self.prefill_s(request) + self._decode_s(request, self.output_tokens(request))

    def output_tokens(self, request: TrackedRequest) -> int:
        """A length that the answer will probably not exceed, never above what it asks for."""
        asked = request.request
        expected = self.lengths.predict(asked.user_id, asked.model, request.prompt_tokens)
        expected = max(expected, len(request.resume_token_ids) + 1, asked.sampling.min_tokens)
        return min(expected, asked.sampling.max_tokens or expected)

    def dispatched(self, request: TrackedRequest, now_s: float) -> None:
        """Remember what was predicted of a request that goes out now."""
        prefill_s, tokens = self.prefill_s(request), self.output_tokens(request)
        self._predicted[request.sequence] = (now_s, prefill_s, prefill_s + self._decode_s(request, tokens), tokens)

    def ended(
        self,
        request: TrackedRequest,
        now_s: float,
        output_tokens: int = 0,
        first_token_s: float | None = None,
        *,
        finished: bool = True,
    ) -> None:
        """An attempt has ended. One that `finished` is learned from, and measured against what was predicted.

        `output_tokens` counts the whole answer; `first_token_s` is from dispatch, where it is known.
        """
        predicted = self._predicted.pop(request.sequence, None)
        if not finished or not output_tokens:
            return
        if predicted is not None:
            since_s, prefill_s, service_s, tokens = predicted
            self.output_error.add(tokens, output_tokens)
            self.finish_error.add(service_s, now_s - since_s)
            if first_token_s is not None:
                self.first_token_error.add(prefill_s, first_token_s)
        asked = request.request
        self.lengths.add(asked.user_id, asked.model, request.prompt_tokens, output_tokens)

    def _decode_s(self, request: TrackedRequest, output_tokens: int) -> float:
        """From the first new token to the last of so many."""
        left = output_tokens - len(request.resume_token_ids)
        return max(0, left - 1) * self.pace(request.request.model).interval_s

    def _prior(self, model: str) -> Pace:
        """A new instance is taken to be like its siblings."""
        for worker in self._workers.values():
            if worker.model == model and worker.steps.samples:
                return worker.steps.pace
        return PRIOR
