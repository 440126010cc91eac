"""From engine outputs to the wire: one frame per step and reader, one report per step, and the endings."""

from collections.abc import Iterable, Iterator, Sequence

from sagellm.broker import Sender
from sagellm_engine.contract import StepOutput
from sagellm_schemas import (
    Cancelled,
    Ended,
    ErrorBody,
    Event,
    Failed,
    Finished,
    FinishReason,
    Frame,
    Outcome,
    SageError,
    Tokens,
    Usage,
    WorkReport,
    encode,
    subjects,
)

from .ledger import Job, Ledger, Reader
from .metrics import Counters

Readers = dict[Reader, list[Event]]
"""The events of one step for each reader."""


class Outbox:
    """Says how jobs go on and how they end, to readers and to the scheduler, and enters endings in the ledger.

    With `tells_starts` the scheduler also hears which jobs had their first output.
    """

    def __init__(
        self, instance: str, ledger: Ledger, sender: Sender, counters: Counters, *, tells_starts: bool = False
    ) -> None:
        self._instance = instance
        self._reports = subjects.reports(instance)
        self._ledger = ledger
        self._sender = sender
        self._counters = counters
        self._tells_starts = tells_starts

    def emit(self, outputs: list[StepOutput]) -> None:
        """The engine's callback: the outputs of one step."""
        readers: Readers = {}
        ended: list[tuple[Job, Ended]] = []
        started: list[str] = []
        jobs = self._ledger.jobs
        for output in outputs:
            job = jobs.get(output.id)
            if job is None:
                continue  # aborted in the meantime
            if not job.started:
                job.started = True
                self._counters.first_token(job)
                if self._tells_starts:
                    started.append(job.id)
            if output.token_ids or output.text:
                if not job.stream:
                    _gather(job, output)
                elif job.reader:
                    tokens = _tokens(job, output)
                    events = readers.get(job.reader)
                    if events is None:
                        readers[job.reader] = [tokens]
                    else:
                        events.append(tokens)
            if output.finish_reason is not None or output.error is not None:
                ending, events = self._ending(job, output)
                ended.append((job, ending))
                if job.reader:
                    readers.setdefault(job.reader, []).extend(events)
        self._send(readers, ended, started)

    def failed(self, job: Job, error: SageError) -> None:
        """End `job` with `error`: told to the reader if it is final, else handed back to the scheduler."""
        self.emit([StepOutput(id=job.key, error=error)])

    def cancelled(self, jobs: Sequence[Job]) -> None:
        """End `jobs` as cancelled."""
        readers: Readers = {}
        for job in jobs:
            if job.reader:
                readers.setdefault(job.reader, []).append(Cancelled(id=job.id, attempt=job.attempt))
        self._send(readers, [(job, _ended(job, Outcome.CANCELLED)) for job in jobs])

    def returned(self, jobs: Iterable[Job]) -> None:
        """Hand `jobs` back unfinished, through no fault of theirs; readers are told nothing."""
        self._send({}, [(job, _ended(job, Outcome.RETURNED)) for job in jobs])

    def acknowledge(self, ack: str) -> None:
        """Remove a work item from its stream."""
        if ack:
            self._sender.send(ack)

    def _ending(self, job: Job, output: StepOutput) -> tuple[Ended, list[Event]]:
        """The report of an ending, and what the reader gets to see of it."""
        usage = output.usage or Usage()
        if output.error is not None:
            error = output.error.body()
            if output.error.retryable:
                return _ended(job, Outcome.RETURNED, usage, error), []
            failed = Failed(id=job.id, attempt=job.attempt, error=error)
            return _ended(job, Outcome.FAILED, usage, error), [failed]
        events: list[Event] = [] if job.stream else [_whole(job, output)]
        finished = Finished(
            id=job.id,
            attempt=job.attempt,
            finish_reason=output.finish_reason or FinishReason.STOP,
            stop_reason=output.stop_reason,
            usage=usage,
        )
        return _ended(job, Outcome.FINISHED, usage), [*events, finished]

    def _send(self, readers: Readers, ended: list[tuple[Job, Ended]], started: Sequence[str] = ()) -> None:
        for (reply_to, content_type), events in readers.items():
            for payload in self._frames(events, content_type):
                self._sender.send(reply_to, payload)
        if not ended and not started:
            return
        report = WorkReport(instance=self._instance, ended=[ending for _, ending in ended], started=list(started))
        self._sender.send(self._reports, encode(report))
        for job, ending in ended:
            self._ledger.end(job, ending)
            self._counters.ended(job, ending)
            self.acknowledge(job.ack)

    def _frames(self, events: list[Event], content_type: str) -> Iterator[bytes]:
        """`events` as one message, or as more where one would be over the server's limit."""
        payload = encode(Frame(events=events, instance=self._instance), content_type)
        if len(payload) <= self._sender.max_payload_bytes:
            yield payload
            return
        if len(events) == 1:
            events = _halves(events[0])
        middle = len(events) // 2
        if middle:
            yield from self._frames(events[:middle], content_type)
            yield from self._frames(events[middle:], content_type)


def _ended(job: Job, outcome: Outcome, usage: Usage | None = None, error: ErrorBody | None = None) -> Ended:
    return Ended(id=job.id, attempt=job.attempt, outcome=outcome, usage=usage or Usage(), error=error)


def _tokens(job: Job, output: StepOutput) -> Tokens:
    """Once for each token of the whole pipeline: nothing is passed that has its default."""
    if output.logprobs is None:
        return Tokens(
            id=job.id, attempt=job.attempt, offset=output.offset, token_ids=output.token_ids, text=output.text
        )
    return Tokens(
        id=job.id,
        attempt=job.attempt,
        offset=output.offset,
        token_ids=output.token_ids,
        text=output.text,
        logprobs=output.logprobs,
    )


def _gather(job: Job, output: StepOutput) -> None:
    if not job.token_ids:
        job.offset = output.offset
    job.token_ids.extend(output.token_ids)
    job.text.append(output.text)
    job.logprobs.extend(output.logprobs or ())


def _whole(job: Job, output: StepOutput) -> Tokens:
    """The gathered answer of a request that does not stream."""
    return Tokens(
        id=job.id,
        attempt=job.attempt,
        offset=job.offset,
        token_ids=job.token_ids,
        text="".join(job.text),
        logprobs=job.logprobs or None,
    )


def _halves(event: Event) -> list[Event]:
    """One event that is too large as two; only tokens can be divided."""
    if not isinstance(event, Tokens) or len(event.token_ids) < 2:
        return [event]
    middle = len(event.token_ids) // 2
    first, second = (event.logprobs[:middle], event.logprobs[middle:]) if event.logprobs else (None, None)
    return [
        Tokens(
            id=event.id,
            attempt=event.attempt,
            offset=event.offset,
            token_ids=event.token_ids[:middle],
            text=event.text,
            logprobs=first,
        ),
        Tokens(
            id=event.id,
            attempt=event.attempt,
            offset=event.offset + middle,
            token_ids=event.token_ids[middle:],
            logprobs=second,
        ),
    ]
