"""The NATS micro service `sagellm.v1.infer.<model>`: the way in for clients that speak only NATS.

Every ingress runs it in one queue group. The reply subject of the request is where the frames go, in the format
of the request.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from secrets import token_hex

import msgspec
import nats.errors
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import ServiceConfig

from sagellm_schemas import (
    Codec,
    Failed,
    Frame,
    InferenceRequest,
    InvalidRequest,
    ModelNotFound,
    SageError,
    encode,
    sniff,
    subjects,
)

from .service import Service

logger = logging.getLogger(__name__)

NAME = "sagellm"
VERSION = "1.0.0"


@contextlib.asynccontextmanager
async def infer_service(service: Service) -> AsyncIterator[None]:
    """Serve within this context."""
    handler = InferHandler(service)
    micro = await add_service(
        service.nc,
        ServiceConfig(
            name=NAME, version=VERSION, description="Answers inference requests with a stream of frames"
        ),
    )
    try:
        await micro.add_endpoint(name="infer", handler=handler.handle, subject=f"{subjects.PREFIX}.infer.*")
        await service.nc.flush()  # from here on the server knows that there is someone to answer
        yield
    finally:
        with contextlib.suppress(nats.errors.Error):
            await micro.stop()


class InferHandler:
    """Checks requests and puts them into the queue."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._nc = service.nc
        self._requests: Codec[InferenceRequest] = Codec(InferenceRequest)

    async def handle(self, request: Request) -> None:
        """Take one request; what is wrong with it is answered as a `Failed` event."""
        message = request._msg  # its reply subject has no other name
        content_type = (request.headers or {}).get(subjects.CONTENT_TYPE) or sniff(request.data)
        request_id = (request.headers or {}).get(subjects.MESSAGE_ID, "")
        try:
            asked = self._requests.decode(request.data, content_type)
            request_id = asked.id or request_id or f"infer-{token_hex(12)}"
            asked = msgspec.structs.replace(asked, id=request_id, reply_to=message.reply or asked.reply_to)
            self._check(asked, message.subject)
            self._service.publisher.publish(
                subjects.requests(asked.model),
                encode(asked, content_type),
                request_id,
                content_type,
                partial(self._settled, asked.reply_to, request_id, content_type),
            )
        except SageError as error:
            self._fail(message.reply, request_id, content_type, error)

    def _check(self, asked: InferenceRequest, subject: str) -> None:
        """
        Raises:
            SageError: it cannot be answered.
        """
        if not asked.reply_to:
            raise InvalidRequest("a reply subject is needed; send it as a NATS request", param="reply_to")
        asked.verify()
        model = self._service.models.find(asked.model)
        if model.adapter is not None:
            raise InvalidRequest(
                f"{asked.model!r} is an adapter: ask for model {model.base!r} with adapter {asked.model!r}",
                param="model",
            )
        if asked.adapter is not None and self._service.models.find(asked.adapter).card.parent != asked.model:
            raise ModelNotFound(f"{asked.adapter!r} is no adapter of {asked.model!r}", param="adapter")
        if subject != subjects.infer(asked.model):
            raise InvalidRequest(
                f"model {asked.model!r} is asked for on {subject}; use {subjects.infer(asked.model)}",
                param="model",
            )

    def _settled(self, reply: str, request_id: str, content_type: str, error: SageError | None) -> None:
        if error is not None:
            self._fail(reply, request_id, content_type, error)

    def _fail(self, reply: str, request_id: str, content_type: str, error: SageError) -> None:
        if not reply:
            logger.warning("a request without a reply subject was refused: %s", error)
            return
        frame = Frame(events=[Failed(id=request_id, error=error.body())])
        with contextlib.suppress(nats.errors.Error):
            self._nc.send(reply, encode(frame, content_type), headers={subjects.CONTENT_TYPE: content_type})
