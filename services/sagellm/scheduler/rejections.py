"""Messages that cannot become work: each is answered, kept as a dead letter, and never delivered again."""

import asyncio
import logging
from collections.abc import Callable

import nats.errors
import nats.js.errors

from sagellm.broker import Sender
from sagellm.scheduler.dead_letters import DeadLetters
from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm.scheduler.models import Models
from sagellm.scheduler.reading import Rejection
from sagellm.scheduler.replies import Replies
from sagellm.scheduler.requests import TrackedRequest
from sagellm_schemas import ModelNotFound, SageError, subjects

logger = logging.getLogger(__name__)

TERM = b"+TERM"
BATCH = 256


class Rejections:
    """The slow path beside the intake, in batches, so that a flood of bad messages holds up nobody."""

    def __init__(
        self,
        models: Models,
        dead_letters: DeadLetters,
        replies: Replies,
        sender: Sender,
        metrics: SchedulerMetrics,
        accept: Callable[[TrackedRequest], None],
        settled: Callable[[int], None],
    ) -> None:
        self._models = models
        self._dead_letters = dead_letters
        self._replies = replies
        self._sender = sender
        self._metrics = metrics
        self._accept = accept
        self._settled = settled
        self._waiting: asyncio.Queue[Rejection] = asyncio.Queue()
        self._sequences: set[int] = set()

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._sequences

    def put(self, rejection: Rejection) -> None:
        """Answer this message soon."""
        self._sequences.add(rejection.sequence)
        self._waiting.put_nowait(rejection)

    def unknown_model(self, tracked: TrackedRequest) -> None:
        """A model or adapter without a card: look once more (its card may be new), then answer."""
        self.put(
            Rejection(
                sequence=tracked.sequence,
                ack_subject=tracked.ack_subject,
                request_id=tracked.id,
                reply_to=tracked.request.reply_to,
                reply_format=tracked.reply_format,
                model=subjects.token(tracked.request.model),
                error=ModelNotFound("", param="model"),
                tracked=tracked,
            )
        )

    async def run(self) -> None:
        """Answer for as long as the service lives."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._handle(batch)

    async def _handle(self, batch: list[Rejection]) -> None:
        asked = [rejection.tracked.request for rejection in batch if rejection.tracked is not None]
        for key in {
            subjects.token(name) for request in asked for name in (request.model, request.adapter) if name
        }:
            try:
                await self._models.look_up(key)
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                logger.warning("the card of model %.100s cannot be read: %s", key, error)
        rejected = []
        for rejection in batch:
            tracked = rejection.tracked
            if tracked is not None and tracked.request in self._models:
                self._sequences.discard(rejection.sequence)
                self._accept(tracked)
            else:
                rejected.append(rejection)
        if rejected:
            await asyncio.gather(*(self._reject(rejection) for rejection in rejected))
            logger.warning(
                "%d messages rejected; one of them: %s", len(rejected), self._error(rejected[-1]).message
            )

    async def _reject(self, rejection: Rejection) -> None:
        error = self._error(rejection).body()
        await self._dead_letters.put(
            sequence=rejection.sequence,
            request_id=rejection.request_id,
            model=rejection.model,
            errors=[error],
            request=rejection.tracked.request if rejection.tracked else None,
            raw=rejection.raw,
        )
        self._replies.failed(rejection.reply_to, rejection.reply_format, rejection.request_id, error)
        self._sender.send(rejection.ack_subject, TERM)
        self._settled(rejection.sequence)
        self._sequences.discard(rejection.sequence)
        self._metrics.rejected.inc()

    def _error(self, rejection: Rejection) -> SageError:
        if rejection.tracked is None:
            return rejection.error
        return self._models.not_found(rejection.tracked.request)
