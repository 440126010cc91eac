"""Whether a new request may wait: the one decision of admission."""

from collections.abc import Callable, Iterator

from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import QueueFull, SageError

from .backlog import Backlog
from .bounds import Bounds
from .rates import Rates, called
from .refusal import Refusal


class Admission:
    """Holds requests against all bounds, and reserves what an admitted one may take.

    `output_tokens` guesses the length of an answer for which no `max_tokens` is given; `refused` hears the reason
    of every refusal.
    """

    def __init__(
        self,
        bounds: Bounds,
        backlog: Backlog,
        rates: Rates,
        output_tokens: Callable[[TrackedRequest], int],
        refused: Callable[[str], None],
    ) -> None:
        self._bounds = bounds
        self._backlog = backlog
        self._rates = rates
        self._output_tokens = output_tokens
        self._refused = refused
        self.unbounded = bounds == Bounds(tiers=bounds.tiers)
        """Nobody is ever refused."""

    def judge(self, tracked: TrackedRequest, now_s: float) -> SageError | None:
        """Admit a request, or tell why not and when to come again: the last moment of those that its bounds name.

        `now_s` is of a clock that never goes back.
        """
        tokens = self._tokens(tracked) if self._rates.counts_tokens else 0
        refusals = [*self._too_many(tracked, now_s), *self._rates.refusals(tracked, tokens, now_s)]
        if not refusals:
            self._rates.reserve(tracked, tokens, now_s)
            return None
        refusal = max(refusals, key=lambda refusal: refusal.retry_after_s)
        self._refused(refusal.reason)
        return refusal.error()

    def _tokens(self, tracked: TrackedRequest) -> int:
        """The most that it may take."""
        return tracked.prompt_tokens + (tracked.request.sampling.max_tokens or self._output_tokens(tracked))

    def _too_many(self, tracked: TrackedRequest, now_s: float) -> Iterator[Refusal]:
        request, backlog = tracked.request, self._backlog
        most = self._bounds.queued_per_model
        if most is not None and backlog.full(lambda queues: queues.length(request.model), most):
            message = f"too many requests wait for model {request.model!r}: {most}"
            yield Refusal("model_queue", QueueFull, message, backlog.model_place_s(tracked, now_s))
        if self._bounds.queued_per_user is None:
            return
        theirs = self._bounds.queued_per_user * self._bounds.factor(request.billing_tier)
        if backlog.full(lambda queues: queues.length_of(request.user_id), theirs):
            message = f"too many requests of {called(request.user_id)} wait: {theirs:g}"
            yield Refusal("user_queue", QueueFull, message, backlog.user_place_s(tracked))
