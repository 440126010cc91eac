"""The PD router: which phase a request is dispatched in, and among whom."""

from typing import Protocol

from sagellm.scheduler.candidates import Candidates
from sagellm.scheduler.instances import Instance, Instances
from sagellm.scheduler.phases import Phase
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import by_load, preferred

from .base import PdPolicy, Prospect

TRANSFER_S_PER_TOKEN = 1.3e-5
"""128 KiB of keys and values per token (Llama-3.1-8B in bf16) at 10 GB/s."""


class Expectations(Protocol):
    """What the router asks about the future; a policy's `Outlook` can tell."""

    def prefill_s(self, request: TrackedRequest) -> float:
        """From its dispatch to its first token, if it were dispatched now."""
        ...

    def output_tokens(self, request: TrackedRequest) -> int:
        """How many tokens it will probably answer with."""
        ...


class PdRouter:
    """Decides between the halves and the whole: nothing waits for a role that is not there.

    Where KV blocks can move (`transfers`), a request is split only if a decoding instance has a free credit as
    well. While every prefilling instance is full, the PD policy is asked all the same, and what it would split
    waits for one of them: a burst of prompts that ran where others decode would stall those. Where blocks cannot
    move, what should be split runs whole on a prefilling instance, as long as one has a free credit: there its
    prompt stalls only others of its kind.
    """

    def __init__(
        self,
        policy: PdPolicy,
        instances: Instances,
        expectations: Expectations,
        *,
        transfers: bool = False,
        transfer_s_per_token: float = TRANSFER_S_PER_TOKEN,
    ) -> None:
        self._policy = policy
        self._instances = instances
        self._expectations = expectations
        self._transfers = transfers
        self._transfer_s_per_token = transfer_s_per_token if transfers else 0.0

    def load(self, model: str) -> float:
        """Share of the credits in use, of those for whole requests, or else of the prefilling ones."""
        return self._entry(model).load

    def capacity(self, model: str) -> int:
        """How many credits there are, free or not: for whole requests, or else of the prefilling instances."""
        return self._entry(model).capacity

    def available(self, model: str, adapter: str | None = None) -> bool:
        """Whether a new request of `model` with this adapter, or with none, can be placed now."""
        with_credit = self._instances.with_credit
        return bool(with_credit(model, Phase.WHOLE, adapter) or with_credit(model, Phase.PREFILL, adapter))

    def place(self, request: TrackedRequest, now_s: float) -> tuple[Phase, Candidates]:
        """What `request` is dispatched for, PREFILL or WHOLE, and to one of whom; to nobody while it had better
        wait. `available` must hold, of its adapter too."""
        model, adapter = request.request.model, request.request.adapter
        whole = self._instances.with_credit(model, Phase.WHOLE, adapter)
        prefilling = self._instances.with_credit(model, Phase.PREFILL, adapter)
        waits = not prefilling and self._transfers and bool(prefilling.ready)
        if not (prefilling or waits) or preferred(request, whole):
            return Phase.WHOLE, whole
        if preferred(request, prefilling):
            return Phase.WHOLE, prefilling
        goes_on = not self._transfers or bool(self.decoding(model, adapter))
        if goes_on and self._policy.splits(request, self._prospect(request, prefilling, whole, now_s)):
            return (Phase.PREFILL if self._transfers else Phase.WHOLE), prefilling
        return Phase.WHOLE, whole or prefilling

    def decoding(self, model: str, adapter: str | None = None) -> Candidates:
        """Who can take a decode after its prefill now."""
        return self._instances.with_credit(model, Phase.DECODE, adapter)

    def _entry(self, model: str) -> Candidates:
        whole = self._instances.with_credit(model, Phase.WHOLE)
        return whole if whole.members else self._instances.with_credit(model, Phase.PREFILL)

    def _prospect(
        self, request: TrackedRequest, prefilling: Candidates, whole: Candidates, now_s: float
    ) -> Prospect:
        prefill_s = self._expectations.prefill_s(request)
        backlog_tokens, waited_s = prefilling.unread_tokens, max(0.0, now_s - request.arrival_s)
        if prefilling:
            backlog_tokens, waited_s = prefilling.least(by_tokens).unread_tokens, 0.0
        return Prospect(
            input_tokens=request.prompt_tokens,
            output_tokens=self._expectations.output_tokens(request),
            prefill_s=prefill_s,
            prefill_wait_s=waited_s + backlog_tokens * prefill_s / max(1, request.prompt_tokens),
            transfer_s=request.prompt_tokens * self._transfer_s_per_token,
            decoding=len(whole.least(by_load).assigned) if whole else 0,
        )


def by_tokens(instance: Instance) -> tuple[float, ...]:
    """Key of the instance with the fewest prompt tokens to compute."""
    return instance.unread_tokens, instance.last_turn
