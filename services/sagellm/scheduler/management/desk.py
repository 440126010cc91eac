"""Where operators' messages arrive: each is decoded, handled beside the others, and answered in its own format."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import nats.errors
import nats.js.errors

from sagellm.broker import Client, Message, Sender
from sagellm_schemas import (
    CancelOrder,
    ChangeOrder,
    Codec,
    InstanceOrder,
    InstancesQuery,
    PolicyQuery,
    QueueQuery,
    Refusal,
    Registration,
    RequestQuery,
    RequestsQuery,
    SageError,
    SwitchOrder,
    Unavailable,
    encode,
    sniff,
    subjects,
)

from .orders import Orders
from .queries import Queries

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 64


class Desk:
    """Serves the management subjects while this process leads."""

    def __init__(self, nc: Client, sender: Sender, queries: Queries, orders: Orders) -> None:
        self._nc = nc
        self._sender = sender
        self._handling: set[asyncio.Task[None]] = set()
        self._routes: dict[str, tuple[Codec[Any], Callable[[Any], Awaitable[msgspec.Struct]]]] = {
            subjects.MANAGE_QUEUE: (Codec(QueueQuery), queries.queue),
            subjects.MANAGE_REQUESTS: (Codec(RequestsQuery), queries.requests),
            subjects.MANAGE_REQUEST: (Codec(RequestQuery), queries.request),
            subjects.MANAGE_INSTANCES: (Codec(InstancesQuery), queries.instances),
            subjects.MANAGE_POLICY: (Codec(PolicyQuery), queries.policy),
            subjects.MANAGE_CHANGE: (Codec(ChangeOrder), orders.change),
            subjects.MANAGE_CANCEL: (Codec(CancelOrder), orders.cancel),
            subjects.MANAGE_INSTANCE: (Codec(InstanceOrder), orders.instance),
            subjects.MANAGE_REGISTER: (Codec(Registration), orders.register),
            subjects.MANAGE_SWITCH: (Codec(SwitchOrder), orders.switch),
        }

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve within this context; what is being handled at its end is dropped."""
        async with contextlib.AsyncExitStack() as stack:
            for subject, (codec, handler) in self._routes.items():
                on_message = partial(self._on_message, codec, handler)
                await stack.enter_async_context(self._nc.handling(subject, on_message))
            try:
                yield
            finally:
                for task in self._handling:
                    task.cancel()

    def _on_message(
        self, codec: Codec[Any], handler: Callable[[Any], Awaitable[msgspec.Struct]], message: Message
    ) -> None:
        if not message.reply:
            return  # nobody would hear what became of it
        if len(self._handling) >= MOST_AT_ONCE:
            busy = Unavailable("too much is asked of the scheduler at once; try again", retry_after_s=1.0)
            self._answer(message, Refusal(error=busy.body()))
            return
        task = asyncio.create_task(self._handle(codec, handler, message), name=f"handling {message.subject}")
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    async def _handle(
        self, codec: Codec[Any], handler: Callable[[Any], Awaitable[msgspec.Struct]], message: Message
    ) -> None:
        """Answer one message, whatever comes of it."""
        answer: msgspec.Struct
        try:
            asked = codec.decode(message.data or b"{}", message.headers.get(subjects.CONTENT_TYPE))
            answer = await handler(asked)
        except SageError as error:
            answer = Refusal(error=error.body())
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            refused = Unavailable(f"NATS does not store the order ({reason}); try again", retry_after_s=1.0)
            answer = Refusal(error=refused.body())
        except Exception:
            logger.exception("a message on %s failed for a reason of our own", message.subject)
            answer = Refusal(error=SageError("an internal error; the log of the scheduler has details").body())
        self._answer(message, answer)

    def _answer(self, message: Message, answer: msgspec.Struct) -> None:
        kind = message.headers.get(subjects.CONTENT_TYPE) or sniff(message.data)
        self._sender.send(message.reply, encode(answer, kind))
