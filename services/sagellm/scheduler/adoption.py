"""What a new leader inherits: which requests run, which have ended, which were tried, until the replay is over."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from sagellm.scheduler.attempts import AttemptRecord
from sagellm.scheduler.endings import Endings
from sagellm.scheduler.recovery import Recovery
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import Ended, InstanceReport, Outcome, RequestStatus, from_body


def is_final(ended: Ended) -> bool:
    """Whether the worker has told the reader how it ended, so that nothing is left to do."""
    if ended.outcome is Outcome.FAILED:
        return ended.error is not None and not from_body(ended.error).retryable
    return ended.outcome is not Outcome.RETURNED


@dataclass(frozen=True)
class Doubts:
    """Which requests may have been dispatched to an instance that no longer tells: their readers must be asked.

    Those with these `ids`, and all up to a sequence of the durable queue; by default everything.
    """

    ids: frozenset[str] = frozenset()
    up_to_sequence: float = inf

    def __contains__(self, tracked: TrackedRequest) -> bool:
        return tracked.sequence <= self.up_to_sequence or tracked.id in self.ids


NO_DOUBTS = Doubts(up_to_sequence=0.0)


class Adoption:
    """Decides for every replayed request where it goes on: nowhere, where it runs, or back into the queue."""

    def __init__(self, endings: Endings, recovery: Recovery, enqueue: Callable[[TrackedRequest], None]) -> None:
        self.records: dict[str, AttemptRecord] = {}
        self.doubts = Doubts()
        self._endings = endings
        self._recovery = recovery
        self._enqueue = enqueue
        self._running: dict[str, tuple[int, str]] = {}
        self._ended: dict[str, Ended] = {}
        self.replaying = True

    def learn(self, report: InstanceReport) -> None:
        """Take in what an instance runs and what has ended there."""
        instance_id = report.heartbeat.info.instance_id
        for request_id, attempt in report.heartbeat.running.items():
            self.runs(request_id, attempt, instance_id)
        for ended in report.ended:
            self.has_ended(ended)

    def runs(self, request_id: str, attempt: int, instance_id: str) -> None:
        """An instance runs this attempt; of several the highest counts."""
        if attempt > self._running.get(request_id, (0, ""))[0]:
            self._running[request_id] = (attempt, instance_id)

    def has_ended(self, ended: Ended) -> None:
        """An attempt has ended; of several the highest counts."""
        known = self._ended.get(ended.id)
        if known is None or ended.attempt >= known.attempt:
            self._ended[ended.id] = ended

    def knows(self, tracked: TrackedRequest) -> bool:
        """Whether there is more to it than that it waits: it runs, has ended, was tried, or may have been."""
        request_id = tracked.id
        return (
            request_id in self._running
            or request_id in self._ended
            or request_id in self.records
            or tracked in self.doubts
        )

    def place(self, tracked: TrackedRequest) -> None:
        """Send one request on its way: one of the replay by what is known of it, a new one into the queue."""
        if not self.replaying or not self.knows(tracked):
            self._enqueue(tracked)
            return
        record = self.records.pop(tracked.id, None)
        if record is not None:
            tracked.attempt = record.attempt
            tracked.failures = record.failures
            tracked.returns = record.returns
            tracked.preemptions = record.preemptions
            tracked.errors = list(record.errors)
            if record.changes is not None:
                tracked.change(record.changes)
        attempt, instance_id = self._running.pop(tracked.id, (0, ""))
        ended = self._ended.pop(tracked.id, None)
        if ended is not None and ended.attempt > tracked.attempt and ended.attempt >= attempt:
            tracked.attempt = ended.attempt
            self._conclude(tracked, ended)
        elif attempt > tracked.attempt:
            tracked.attempt = attempt
            tracked.instance = instance_id
            tracked.status = RequestStatus.RUNNING
            tracked.dispatched_s = time.monotonic()
        elif (record is not None and record.tried) or tracked in self.doubts:
            self._recovery.resume(tracked)
        else:
            self._enqueue(tracked)

    def _conclude(self, tracked: TrackedRequest, ended: Ended) -> None:
        if is_final(ended):
            self._endings.settle(tracked, ended)
        elif ended.error is not None:
            self._recovery.failed(tracked, ended.error)
        else:
            self._recovery.returned(tracked)
