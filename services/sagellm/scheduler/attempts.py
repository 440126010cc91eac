"""What outlives a leader: the term, and how often each outstanding request was tried."""

import asyncio
import logging

import msgspec
import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.kv import KeyValue

from sagellm.broker import read_bucket
from sagellm.scheduler.requests import Changes, TrackedRequest
from sagellm_schemas import ErrorBody, RequestStatus, subjects

logger = logging.getLogger(__name__)

TERM_KEY = "term"
PREFIX = "request."


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Tries of one request, and what an operator has changed. `attempt` is the highest known to have ended."""

    attempt: int
    failures: int = 0
    returns: int = 0
    preemptions: int = 0
    errors: list[ErrorBody] = msgspec.field(default_factory=list)
    changes: Changes | None = None

    @property
    def tried(self) -> bool:
        """Whether an attempt has ended, so that the request was to be dispatched again."""
        return self.failures + self.returns > 0


class Attempts:
    """The attempts bucket: written before a request is dispatched again or when an operator changes it, cleared
    when it ends."""

    def __init__(self, js: JetStreamContext, bucket: KeyValue) -> None:
        self._js = js
        self.bucket = bucket
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(AttemptRecord)
        self._ended: asyncio.Queue[str] = asyncio.Queue()

    async def next_term(self) -> int:
        """A leadership term greater than every one before, by compare-and-set."""
        while True:
            try:
                try:
                    entry = await self.bucket.get(TERM_KEY)
                except nats.js.errors.KeyNotFoundError:
                    await self.bucket.create(TERM_KEY, b"1")
                    return 1
                term = int(entry.value or b"0") + 1
                await self.bucket.update(TERM_KEY, str(term).encode(), last=entry.revision)
                return term
            except nats.js.errors.KeyWrongLastSequenceError:
                continue

    async def term(self) -> int:
        """The latest leadership term; 0 before the first."""
        try:
            return int((await self.bucket.get(TERM_KEY)).value or b"0")
        except nats.js.errors.KeyNotFoundError:
            return 0

    async def save(self, tracked: TrackedRequest) -> None:
        """Store the tries of `tracked`."""
        running = tracked.status is RequestStatus.RUNNING
        record = AttemptRecord(
            attempt=tracked.attempt - running,
            failures=tracked.failures,
            returns=tracked.returns,
            preemptions=tracked.preemptions,
            errors=tracked.errors,
            changes=tracked.changes,
        )
        await self.bucket.put(PREFIX + tracked.id, self._encoder.encode(record))

    def forget(self, request_id: str) -> None:
        """The request has ended: remove its record soon."""
        self._ended.put_nowait(request_id)

    async def run(self) -> None:
        """Remove the records of ended requests, for as long as the service lives."""
        while True:
            request_id = await self._ended.get()
            subject = f"$KV.{subjects.ATTEMPTS_BUCKET}.{PREFIX}{request_id}"
            try:
                await self._js.purge_stream(f"KV_{subjects.ATTEMPTS_BUCKET}", subject=subject)
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.warning("the attempts of ended request %s are kept: %s", request_id, error)

    async def load(self) -> dict[str, AttemptRecord]:
        """Every stored record, by request id."""
        records: dict[str, AttemptRecord] = {}
        for key, value in (await read_bucket(self._js, subjects.ATTEMPTS_BUCKET)).items():
            if key.startswith(PREFIX):
                records[key[len(PREFIX) :]] = self._decoder.decode(value)
        return records
