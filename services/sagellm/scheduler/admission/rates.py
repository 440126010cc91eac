"""Requests and tokens a minute, per model and per user: reserved at admission, corrected when a request ends."""

from collections.abc import Iterator
from dataclasses import dataclass

from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import Ended, RateLimited

from .bounds import Bounds
from .rate import Rate
from .refusal import Refusal


@dataclass(frozen=True, slots=True)
class _Counted:
    """One of the rates; `reason` is its name in metrics."""

    reason: str
    rate: Rate
    of_user: bool
    in_tokens: bool


class Rates:
    """The four rates, as far as there are bounds. Times are of a clock that never goes back, in seconds."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._counted = [
            _Counted(f"{whose}_{what}", Rate(per_minute), whose == "user", what == "tokens")
            for whose, what, per_minute in (
                ("model", "requests", bounds.model_requests_per_minute),
                ("user", "requests", bounds.user_requests_per_minute),
                ("model", "tokens", bounds.model_tokens_per_minute),
                ("user", "tokens", bounds.user_tokens_per_minute),
            )
            if per_minute is not None
        ]
        self.counts_tokens = any(counted.in_tokens for counted in self._counted)
        """Whether it matters how many tokens a request takes."""

    def refusals(self, tracked: TrackedRequest, tokens: int, now_s: float) -> Iterator[Refusal]:
        """The rates that a request of so many tokens would exceed now."""
        for counted in self._counted:
            name, factor = self._whose(counted, tracked)
            wait_s = counted.rate.wait_s(name, tokens if counted.in_tokens else 1, now_s, factor)
            if wait_s:
                yield Refusal(counted.reason, RateLimited, _message(counted, name, tokens), wait_s)

    def reserve(self, tracked: TrackedRequest, tokens: int, now_s: float) -> None:
        """Count a request that is admitted, and so many tokens."""
        tracked.reserved_tokens = tokens
        for counted in self._counted:
            name, factor = self._whose(counted, tracked)
            counted.rate.take(name, tokens if counted.in_tokens else 1, now_s, factor)

    def settle(self, tracked: TrackedRequest, ended: Ended | None, now_s: float) -> None:
        """A request has ended: give back what it reserved and did not use, or count what it used beyond."""
        if not tracked.reserved_tokens:
            return
        spare = tracked.reserved_tokens - used_tokens(tracked, ended)
        tracked.reserved_tokens = 0
        for counted in self._counted:
            if not counted.in_tokens:
                continue
            name, factor = self._whose(counted, tracked)
            if spare > 0:
                counted.rate.give_back(name, spare, now_s, factor)
            elif spare < 0:
                counted.rate.take(name, -spare, now_s, factor)

    def _whose(self, counted: _Counted, tracked: TrackedRequest) -> tuple[str, float]:
        """Whose bucket it is, and the factor on its rate."""
        request = tracked.request
        if counted.of_user:
            return request.user_id, self._bounds.factor(request.billing_tier)
        return request.model, 1.0


def used_tokens(tracked: TrackedRequest, ended: Ended | None) -> int:
    """Tokens of prompt and answer that a request took, as far as is known; none if it never ran."""
    if not tracked.dispatched_s:
        return 0
    prompt_tokens, answered = tracked.prompt_tokens, max(tracked.charged_tokens, len(tracked.resume_token_ids))
    if ended is not None:
        prompt_tokens = ended.usage.prompt_tokens or prompt_tokens
        answered = max(answered, ended.usage.completion_tokens)
    return prompt_tokens + answered


def called(user: str) -> str:
    """A user in a message."""
    return f"user {user[:100]!r}" if user else "users without a name"


def _message(counted: _Counted, name: str, tokens: int) -> str:
    who = called(name) if counted.of_user else f"model {name!r}"
    if counted.in_tokens:
        return f"too many tokens a minute for {who}, with the {tokens} that this request may take"
    return f"too many requests a minute for {who}"
