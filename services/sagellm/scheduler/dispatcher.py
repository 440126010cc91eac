"""Which request goes where, now: one pass over the queues per burst of events, and no polling."""

import asyncio
import time
from collections.abc import Callable, Iterator

from sagellm.broker import Sender
from sagellm.scheduler.endings import Endings
from sagellm.scheduler.estimates import Estimates
from sagellm.scheduler.matching import Match, Matcher
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.pd import PdRouter
from sagellm.scheduler.policies import Policy
from sagellm.scheduler.queue import RequestQueue
from sagellm.scheduler.requests import TrackedRequest
from sagellm.scheduler.routing import Router
from sagellm_schemas import Ended, MessageTooLarge, Outcome, RequestStatus, WorkItem, encode

STEPS_AT_ONCE = 500
"""Of a change of order, beside what else there is to do: some milliseconds."""


class Dispatcher:
    """Holds the waiting requests and hands them to instances with free credits.

    `may_dispatch` is asked before every pass: whether this process certainly leads and is connected. `no_place` is
    told of the first request of a queue for which no instance has a free credit.
    """

    def __init__(
        self,
        policy: Policy,
        router: Router,
        pd: PdRouter,
        endings: Endings,
        sender: Sender,
        metrics: SchedulerMetrics,
        estimates: Estimates,
        term: int,
        max_item_bytes: int,
        may_dispatch: Callable[[], bool],
        no_place: Callable[[TrackedRequest], None] | None = None,
    ) -> None:
        self._matcher = Matcher(policy, router, pd, estimates)
        self._endings = endings
        self._sender = sender
        self._metrics = metrics
        self._estimates = estimates
        self._term = term
        self._max_item_bytes = max_item_bytes
        self._may_dispatch = may_dispatch
        self._no_place = no_place
        self._queues: dict[str, RequestQueue] = {}
        policy.attach(estimates)
        metrics.uses(policy)
        self._due = asyncio.Event()
        self._turns = 0

    def enqueue(self, tracked: TrackedRequest) -> None:
        """Let a request wait for an instance."""
        tracked.status = RequestStatus.QUEUED
        queue = self._queues.get(tracked.request.model)
        if queue is None:
            queue = self._queues[tracked.request.model] = RequestQueue(self._matcher.policy)
        queue.push(tracked, time.time())
        self._metrics.requests.fairness.waits(tracked.request.user_id)
        self.wake()

    def withdraw(self, tracked: TrackedRequest) -> None:
        """Take a waiting request out."""
        self._queues[tracked.request.model].remove(tracked, time.time())
        self._metrics.requests.fairness.waits_no_more(tracked.request.user_id)

    def changed(self, tracked: TrackedRequest) -> None:
        """A waiting request asks for something else: let it stand where it belongs now."""
        self._queues[tracked.request.model].change(tracked, time.time())
        self.wake()

    def wake(self) -> None:
        """Something has changed: make one pass, after all that is ready to run now."""
        self._due.set()

    async def run(self) -> None:
        """Make passes for as long as this leader leads."""
        while True:
            await self._due.wait()
            self._due.clear()
            if self._may_dispatch():
                self._pass()
            if self._settle():
                self._due.set()
                await asyncio.sleep(0)

    def ended(self, tracked: TrackedRequest, ended: Ended) -> None:
        """An attempt has ended: learn from it, and charge what is new of its answer."""
        answered = ended.usage.completion_tokens
        finished = ended.outcome is Outcome.FINISHED
        first_s = None if ended.first_token_ms is None else ended.first_token_ms / 1000
        self._estimates.ended(tracked, time.time(), answered, first_s, finished=finished)
        self._matcher.policy.charge(tracked, output_tokens=max(0, answered - tracked.charged_tokens))
        tracked.charged_tokens = max(tracked.charged_tokens, answered)

    @property
    def policy(self) -> Policy:
        """What orders the queues."""
        return self._matcher.policy

    @property
    def router(self) -> Router:
        """What chooses instances."""
        return self._matcher.router

    def waiting(self, model: str) -> Iterator[TrackedRequest]:
        """The waiting requests of a model as they would be served; see `RequestQueue.preview`."""
        queue = self._queues.get(model)
        return iter(()) if queue is None else queue.preview(time.time())

    def use(self, policy: Policy) -> None:
        """Order every queue by another policy from now on."""
        now_s = time.time()
        policy.attach(self._estimates)
        self._metrics.uses(policy)
        for queue in self._queues.values():
            queue.use(policy, now_s)
        self._matcher.policy = policy
        self.wake()

    def route(self, router: Router) -> None:
        """Choose instances by another routing strategy from now on."""
        self._matcher.router = router

    def lengths(self) -> dict[str, int]:
        """Waiting requests by model."""
        return {model: len(queue) for model, queue in self._queues.items()}

    def length(self, model: str) -> int:
        """Waiting requests of one model."""
        queue = self._queues.get(model)
        return 0 if queue is None else len(queue)

    def length_of(self, user_id: str) -> int:
        """Waiting requests of one user."""
        return self._metrics.requests.fairness.waiting(user_id)

    def catch_up(self) -> None:
        """If a pass is due, make it now: what it sends waits no more."""
        if self._due.is_set() and self._may_dispatch():
            self._due.clear()
            self._pass()

    def _settle(self) -> bool:
        """Go on putting queues into the order that the policy wants; whether there is more to do."""
        now_s = time.time()
        return sum(queue.settle(now_s, STEPS_AT_ONCE) for queue in self._queues.values()) > 0

    def _pass(self) -> None:
        turns_before, decided_before_s = self._turns, self._matcher.decided_s
        now_s = time.time()
        for model, queue in self._queues.items():
            if not queue:
                continue
            for found in self._matcher.matches(model, queue, now_s):
                self._metrics.requests.fairness.waits_no_more(found.tracked.request.user_id)
                if isinstance(found, Match):
                    self._dispatch(found, now_s)
                else:
                    self._endings.fail(found.tracked, found.error.body())
            if self._no_place is not None:
                first = queue.first(now_s)
                if first is not None and not self._matcher.has_place(first):
                    self._no_place(first)
        if turns := self._turns - turns_before:
            self._metrics.dispatches.inc(turns)
            self._metrics.decided(self._matcher.policy.name, self._matcher.decided_s - decided_before_s, turns)

    def _dispatch(self, match: Match, now_s: float) -> None:
        tracked, instance = match.tracked, match.instance
        first = tracked.attempt == 0
        tracked.attempt = tracked.next_attempt(self._term)
        item = encode(
            WorkItem(
                request=match.request,
                tariff=match.tariff,
                attempt=tracked.attempt,
                term=self._term,
                resume_token_ids=tracked.resume_token_ids,
                reply_format=tracked.reply_format,
                paced=match.paced,
            )
        )
        if len(item) > self._max_item_bytes:
            self._endings.fail(tracked, _too_large(len(item), self._max_item_bytes).body())
            return
        tracked.status = RequestStatus.RUNNING
        tracked.instance = instance.id
        tracked.dispatched_s = time.monotonic()
        self._turns += 1
        instance.assign(tracked.request.id, self._turns, tracked.prompt_tokens)
        self._sender.send(instance.work_subject, item)
        self._estimates.dispatched(tracked, now_s)
        if first:
            self._matcher.policy.charge(tracked, input_tokens=tracked.prompt_tokens)
            wait_s = max(0.0, now_s - tracked.arrival_s)
            self._metrics.wait.observe(wait_s)
            self._metrics.requests.dispatched(wait_s)


def _too_large(size_bytes: int, limit_bytes: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"the request takes {size_bytes} bytes on its way to a worker, and NATS allows {limit_bytes}; "
        "send a shorter prompt, or raise max_payload and SAGELLM_MAX_MESSAGE_BYTES"
    )
