"""The dead letters: requests that will not be tried again, kept with the reasons."""

import asyncio
import logging
import time

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext

from sagellm.scheduler.metrics import SchedulerMetrics
from sagellm_schemas import DeadLetter, ErrorBody, InferenceRequest, encode, subjects

logger = logging.getLogger(__name__)

RAW_BYTES = 4096
TRIES = 5
PAUSE_S = 0.2


class DeadLetters:
    """Writes dead letters and waits until they are stored."""

    def __init__(self, js: JetStreamContext, metrics: SchedulerMetrics, max_payload_bytes: int) -> None:
        self._js = js
        self._metrics = metrics
        self._max_payload_bytes = max_payload_bytes

    async def put(
        self,
        *,
        sequence: int,
        request_id: str,
        model: str,
        errors: list[ErrorBody],
        request: InferenceRequest | None = None,
        raw: bytes = b"",
    ) -> None:
        """Store one letter, once however many leaders try; where that fails again and again, the log has to do.

        A request too large for the letter is left out of it, but for its first bytes.
        """
        letter = DeadLetter(
            id=request_id,
            model=model,
            errors=errors,
            failed_at=time.time(),
            request=request,
            raw=raw[:RAW_BYTES],
        )
        payload = encode(letter)
        if len(payload) > self._max_payload_bytes and request is not None:
            await self.put(
                sequence=sequence, request_id=request_id, model=model, errors=errors[-1:], raw=encode(request)
            )
            return
        self._metrics.dead_letters.inc()
        once = {subjects.MESSAGE_ID: f"{sequence}-{request_id}"}
        for _ in range(TRIES):
            try:
                await self._js.publish(subjects.deadletter(model), payload, headers=once)
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                problem = error
                await asyncio.sleep(PAUSE_S)
            else:
                return
        logger.error("the dead letter of request %s cannot be stored (%s): %s", request_id, problem, errors)
