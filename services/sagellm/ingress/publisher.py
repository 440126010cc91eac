"""Publishing requests into the durable queue.

The acknowledgements of all publishes come back on one inbox and are told apart by a token, as in nats-py's own
request; but nobody waits for one, so no future, task or timer is spent on a request.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import msgspec
import nats.errors

from sagellm.broker import Connection, Message
from sagellm_schemas import BrokerError, MessageTooLarge, QueueFull, SageError, subjects

from .drain import Drain

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
SWEEP_INTERVAL_S = 0.25

Settled = Callable[[SageError | None], None]


class _ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct, frozen=True):
    error: _ApiError | None = None


class _Pending(msgspec.Struct, frozen=True):
    deadline: float
    settled: Settled


class Publisher:
    """Puts messages into REQUESTS; each is accepted when its acknowledgement has arrived."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        self._nc = connection.nc
        self._timeout_s = timeout_s
        self._inbox = self._nc.new_inbox() + "."
        self._acks = msgspec.json.Decoder(_PubAck)
        self._pending: dict[str, _Pending] = {}
        self._count = 0
        self._drain = Drain(connection)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Receive acknowledgements within this context."""
        async with self._nc.handling(self._inbox + "*", self._on_ack), self._drain.listening():
            yield

    def publish(self, subject: str, payload: bytes, message_id: str, content_type: str, settled: Settled) -> None:
        """Send one message; `settled` is called once: with None when it is stored, or else with the error.

        Raises:
            MessageTooLarge: the server allows no messages of this size.
            BrokerError: the connection is closed, or down and its buffer is full.
        """
        self._count += 1
        token = f"{self._count:x}"
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        self._pending[token] = _Pending(deadline, settled)
        headers = {subjects.MESSAGE_ID: message_id, subjects.CONTENT_TYPE: content_type}
        try:
            self._nc.send(subject, payload, reply=self._inbox + token, headers=headers)
        except nats.errors.MaxPayloadError:
            del self._pending[token]
            raise MessageTooLarge(
                f"the request is {len(payload)} bytes, the queue takes at most {self._nc.max_payload}"
            ) from None
        except nats.errors.Error as error:
            del self._pending[token]
            raise _unavailable(str(error) or type(error).__name__) from None

    def _on_ack(self, msg: Message) -> None:
        pending = self._pending.pop(msg.subject[len(self._inbox) :], None)
        if pending is None:
            return
        if not msg.data:  # the server's "no responders"
            pending.settled(_unavailable("there is no queue; is JetStream enabled?"))
            return
        try:
            error = self._acks.decode(msg.data).error
        except msgspec.DecodeError as problem:
            pending.settled(_unavailable(f"an acknowledgement cannot be read: {problem}"))
            return
        pending.settled(None if error is None else self._refused(error))

    def _refused(self, error: _ApiError) -> SageError:
        if "maximum" in error.description:  # messages, bytes, messages per subject
            return QueueFull(
                f"the queue is full ({error.description}); try again later",
                retry_after_s=self._drain.retry_after_s(),
            )
        return _unavailable(error.description or f"error {error.err_code}")

    async def give_up_late(self) -> None:
        """For as long as the service runs, give up on publishes that nobody acknowledges in time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now = loop.time()
            for token, pending in list(self._pending.items()):  # in the order of their deadlines
                if pending.deadline > now:
                    break
                if self._pending.pop(token, None) is not None:
                    pending.settled(_unavailable(f"no acknowledgement within {self._timeout_s:g} s"))


def _unavailable(reason: str) -> BrokerError:
    return BrokerError(f"the request could not be queued: {reason}", retry_after_s=RETRY_AFTER_S)
