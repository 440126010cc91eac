"""From engine outputs to the wire: at most one frame per step and reader, one report per step, and the endings."""

import asyncio
from collections.abc import Iterable, Iterator

import msgspec

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
"""The events of one frame for each reader."""

FRAME_INTERVAL_S = 0.001
"""Steps that are faster than this share a frame: each frame costs three processes a system call or two, and nobody
reads a thousand times a second. A first token waits for nothing."""


class Outbox:
    """Says how jobs go on and how they end, to readers and to the scheduler, and enters endings in the ledger."""

    def __init__(
        self, instance: str, ledger: Ledger, sender: Sender, counters: Counters, *, tells_starts: bool = False
    ) -> None:
        self._instance = instance
        self._reports = subjects.reports(instance)
        self._ledger = ledger
        self._sender = sender
        self._counters = counters
        self._tells_starts = tells_starts
        self._started: list[str] = []
        self._unsent: dict[Job, None] = {}
        """Streaming jobs that have gathered something."""
        self._ended: dict[Job, tuple[Ended, Event | None]] = {}
        self._due_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def emit(self, outputs: list[StepOutput]) -> None:
        """The engine's callback: the outputs of one step."""
        jobs = self._ledger.jobs
        urgent = False
        now = self._ledger.clock()
        for output in outputs:
            job = jobs.get(output.id)
            if job is None or job in self._ended:
                continue  # aborted in the meantime
            if output.token_ids or output.text:
                if not job.first_output_at:
                    self._counters.first_token(now - job.accepted_at)
                    urgent = True
                    if self._tells_starts:
                        self._started.append(job.id)
                job.output(now)
                _gather(job, output)
                if job.stream and job.reader:
                    self._unsent[job] = None
            if output.finish_reason is not None or output.error is not None:
                self._ended[job] = self._ending(job, output)
        loop = asyncio.get_running_loop()
        if urgent or loop.time() >= self._due_at:
            self.flush()
        elif self._timer is None:
            self._timer = loop.call_at(self._due_at, self.flush)

    def flush(self) -> None:
        """Send what there is now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due_at = asyncio.get_running_loop().time() + FRAME_INTERVAL_S
        unsent, self._unsent = self._unsent, {}
        ended, self._ended = self._ended, {}
        readers: Readers = {}
        for job in unsent:
            if job.reader and self._holds(job):
                readers.setdefault(job.reader, []).append(_take(job))
        endings: list[tuple[Job, Ended]] = []
        for job, (ending, last) in ended.items():
            if not self._holds(job):
                continue
            endings.append((job, ending))
            if job.reader and last is not None:
                events = readers.setdefault(job.reader, [])
                if not job.stream and ending.outcome is Outcome.FINISHED:
                    events.append(_take(job))
                events.append(last)
        self._send(readers, endings)

    def failed(self, job: Job, error: SageError) -> None:
        """End `job` with `error`: told to the reader if it is final, else handed back to the scheduler."""
        self.emit([StepOutput(id=job.key, error=error)])
        self.flush()

    def cancelled(self, jobs: Iterable[Job]) -> None:
        """End `jobs` as cancelled, except those that have just ended by themselves."""
        self.flush()
        held = [job for job in jobs if self._holds(job)]
        readers: Readers = {}
        for job in held:
            if job.reader:
                readers.setdefault(job.reader, []).append(Cancelled(id=job.id, attempt=job.attempt))
        self._send(readers, [(job, self._ended_as(job, Outcome.CANCELLED, _so_far(job))) for job in held])

    def returned(self, jobs: Iterable[Job]) -> None:
        """Hand `jobs` back unfinished, through no fault of theirs; readers are told nothing."""
        self.flush()
        self._send({}, [(job, self._ended_as(job, Outcome.RETURNED)) for job in jobs if self._holds(job)])

    def acknowledge(self, ack: str) -> None:
        """Remove a work item from its stream."""
        if ack:
            self._sender.send(ack)

    def _ending(self, job: Job, output: StepOutput) -> tuple[Ended, Event | None]:
        """The report of an ending, and the event that tells the reader."""
        usage = output.usage or Usage()
        if job.tariff is not None:
            cost = job.tariff.cost(usage.prompt_tokens, usage.completion_tokens)
            usage = msgspec.structs.replace(usage, cost=cost)
        if output.error is None:
            finished = Finished(
                id=job.id,
                attempt=job.attempt,
                finish_reason=output.finish_reason or FinishReason.STOP,
                stop_reason=output.stop_reason,
                usage=usage,
            )
            return self._ended_as(job, Outcome.FINISHED, usage), finished
        error = output.error.body()
        if output.error.retryable:
            return self._ended_as(job, Outcome.RETURNED, usage, error), None
        return self._ended_as(job, Outcome.FAILED, usage, error), Failed(
            id=job.id, attempt=job.attempt, error=error
        )

    def _ended_as(
        self, job: Job, outcome: Outcome, usage: Usage | None = None, error: ErrorBody | None = None
    ) -> Ended:
        first = job.first_output_at
        return Ended(
            id=job.id,
            attempt=job.attempt,
            outcome=outcome,
            usage=usage or Usage(),
            error=error,
            first_token_ms=round((first - job.accepted_at) * 1000, 3) if first else None,
            duration_ms=round((self._ledger.clock() - job.accepted_at) * 1000, 3),
            longest_gap_ms=round(job.longest_gap_s * 1000, 3),
            late_gaps=job.late_gaps,
        )

    def _holds(self, job: Job) -> bool:
        return self._ledger.jobs.get(job.key) is job

    def _send(self, readers: Readers, ended: list[tuple[Job, Ended]]) -> None:
        for (reply_to, content_type), events in readers.items():
            for payload in self._frames(events, content_type):
                self._sender.send(reply_to, payload)
        started, self._started = self._started, []
        if not ended and not started:
            return
        report = WorkReport(instance=self._instance, ended=[ending for _, ending in ended], started=started)
        self._sender.send(self._reports, encode(report))
        for job, ending in ended:
            self._ledger.end(job, ending)
            self._counters.ended(ending)
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


def _gather(job: Job, output: StepOutput) -> None:
    if not job.token_ids and not job.text:
        job.offset = output.offset
    job.token_ids += output.token_ids
    job.text.append(output.text)
    if output.logprobs:
        job.logprobs += output.logprobs


def _so_far(job: Job) -> Usage:
    """What an unfinished answer has taken; its prompt is known to the scheduler."""
    return Usage(completion_tokens=job.offset + len(job.token_ids))


def _take(job: Job) -> Tokens:
    """What was gathered, as one event."""
    tokens = Tokens(
        id=job.id,
        attempt=job.attempt,
        offset=job.offset,
        token_ids=job.token_ids,
        text="".join(job.text),
        logprobs=job.logprobs or None,
    )
    job.offset += len(job.token_ids)
    job.token_ids, job.text, job.logprobs = [], [], []
    return tokens


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
