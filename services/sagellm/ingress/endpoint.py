"""The two hot routes: from a request's body to the last byte of its answer.

Plain ASGI, past the web framework: what is done here is done for every request.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Generic, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from sagellm_schemas import InferenceRequest, SageError

from .body import ClientGone, read_body
from .disconnect import DisconnectWatch
from .inbox import Inbox
from .models import Model
from .openai.answer import Answer
from .openai.bodies import GenerationBody
from .openai.decoding import BodyDecoder
from .openai.stream import ChunkStream, Wording
from .openai.whole import Collector
from .service import Service
from .streaming import CLIENT_GONE_STATUS, send_error, send_stream, send_whole

logger = logging.getLogger(__name__)

B = TypeVar("B", bound=GenerationBody)

Translate = Callable[[B, Model, str, str, int], Awaitable[list[InferenceRequest]]]


class Dialect(msgspec.Struct, Generic[B], frozen=True, kw_only=True):
    """What distinguishes one route from the other.

    `requests` takes the body, its model, the response's id, where frames go, and how many choices are allowed.
    """

    name: str
    id_prefix: str
    body: type[B]
    requests: Translate[B]
    echo: Callable[[B, Model], list[str]]
    wording: Wording
    document: Callable[[Collector], bytes]


class Endpoint(Generic[B]):
    """An ASGI application for one dialect."""

    def __init__(self, service: Service, dialect: Dialect[B]) -> None:
        self._service = service
        self._dialect = dialect
        self._decoder = BodyDecoder(dialect.body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status = await self._handle(scope, receive, send)
        except SageError as error:
            status = await send_error(send, error.body())
        except Exception:
            logger.exception("a request failed for a reason of our own")
            status = 500
            with contextlib.suppress(RuntimeError):  # where the response has begun, the server cuts it off
                await send_error(send, SageError("an internal error; the log has details").body())
        self._service.metrics.count(self._dialect.name, status)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> int:
        service, dialect = self._service, self._dialect
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            raw = await read_body(scope, receive, service.settings.max_body_bytes)
        except ClientGone:
            return CLIENT_GONE_STATUS
        body = self._decoder.decode(raw)
        model = service.models.find(body.model)
        answer_id = dialect.id_prefix + token_hex(12)
        requests = await dialect.requests(
            body, model, answer_id, service.intake.reply_to, service.settings.max_choices
        )
        answer = Answer(
            id=answer_id,
            created=int(time.time()),
            model=body.model,
            choices=len(requests),
            choices_per_prompt=body.n or 1,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            echo=dialect.echo(body, model),
        )
        metrics = service.metrics.model(body.model)
        inbox = Inbox(loop)
        metrics.in_flight.inc()
        try:
            service.intake.submit(requests, model.subject, inbox)
            with DisconnectWatch(receive, inbox.leave, loop):
                if body.stream:
                    stream = ChunkStream(answer, dialect.wording)
                    status = await send_stream(send, inbox, stream, metrics, started, loop)
                    usages = stream.usages
                else:
                    collector = Collector(answer)
                    status = await send_whole(send, inbox, collector, lambda: dialect.document(collector))
                    usages = collector.usages
        finally:
            service.intake.withdraw(requests)
            metrics.in_flight.dec()
        for usage in usages.values():
            metrics.prompt_tokens.inc(usage.prompt_tokens)
            metrics.cached_tokens.inc(usage.cached_tokens)
            metrics.output_tokens.inc(usage.completion_tokens)
        metrics.duration.observe(loop.time() - started)
        return status
