"""The requests of this process: into the durable queue, and found again by id."""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable

from sagellm_schemas import (
    MSGPACK,
    BrokerError,
    ErrorBody,
    InferenceRequest,
    InvalidRequest,
    RequestStatus,
    SageError,
    encode,
    subjects,
)

from .answer import Answer
from .metrics import Recorder
from .pipeline import Pipeline

logger = logging.getLogger(__name__)

REMEMBERED = 10_000
"""How many requests that have ended can still be asked for."""


class Submissions:
    """Answers by request id.

    Requests of a model that is not `served` yet are held back until it is; those of one with a `failure` fail.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        recorder: Recorder,
        served: Callable[[str], bool],
        failure: Callable[[str], SageError | None],
    ) -> None:
        self._readers = pipeline.readers
        self._publisher = pipeline.publisher
        self._recorder = recorder
        self._served = served
        self._failure = failure
        self._open: dict[str, Answer] = {}
        self._ended: OrderedDict[str, Answer] = OrderedDict()
        self._held: dict[str, list[tuple[Answer, InferenceRequest]]] = {}
        self._releasing: set[asyncio.Task[None]] = set()

    @property
    def reply_to(self) -> str:
        """Where frames must go."""
        return self._readers.reply_to

    def get(self, request_id: str) -> Answer | None:
        """The answer of that id, unless it is unknown or forgotten."""
        return self._open.get(request_id) or self._ended.get(request_id)

    def open(self) -> list[Answer]:
        """All that have not ended."""
        return list(self._open.values())

    async def submit(self, answer: Answer, wire: InferenceRequest) -> None:
        """Put `wire` into the queue, or hold it back.

        Raises:
            InvalidRequest: its id has been used.
            SageError: the queue did not take it.
        """
        if self.get(wire.id) is not None:
            raise InvalidRequest(
                f"request_id {wire.id!r} has been used; give every request its own", param="request_id"
            )
        self._open[wire.id] = answer
        answer.when_ended(lambda: self._on_end(answer))
        failure = self._failure(wire.model)
        if failure is not None:
            answer.fail(failure.body())
        elif self._served(wire.model):
            try:
                await self._publish(answer, wire)
            except SageError as error:
                answer.fail(error.body())
                raise
        else:
            logger.info("request %s waits for an instance of model %s", wire.id, wire.model)
            self._held.setdefault(wire.model, []).append((answer, wire))

    def release(self, model: str) -> None:
        """An engine of `model` is ready: what was held back goes into the queue."""
        held = self._held.pop(model, [])
        if held:
            task = asyncio.create_task(self._publish_all(held), name=f"requests of {model}")
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    def refuse(self, model: str, error: ErrorBody) -> None:
        """There will be no engine of `model`: what was held back fails."""
        for answer, _ in self._held.pop(model, []):
            answer.fail(error)

    def running(self, request_ids: Iterable[str]) -> None:
        """A worker says that it runs these."""
        for request_id in request_ids:
            if answer := self._open.get(request_id):
                answer.running()

    def cancel(self, answer: Answer) -> None:
        """End an open request, here and wherever it is."""
        self._withdraw(answer)
        answer.cancel()

    def fail_all(self, error: ErrorBody) -> None:
        """End every open request with `error`, here and wherever it is."""
        for answer in self.open():
            self._withdraw(answer)
            answer.fail(error)

    def cancel_all(self) -> None:
        """End every open request."""
        for answer in self.open():
            self.cancel(answer)

    def _withdraw(self, answer: Answer) -> None:
        """Read no more of it; tell others to stop, unless it was held back."""
        request_id = answer.request.request_id
        if self._readers.close(request_id) or answer.status is not RequestStatus.PENDING:
            self._readers.cancel([request_id])

    async def _publish_all(self, held: list[tuple[Answer, InferenceRequest]]) -> None:
        """All in one turn, so that the scheduler sees them together."""
        wanted = [(answer, wire) for answer, wire in held if answer.result is None]
        errors = await asyncio.gather(*(self._publish(*each) for each in wanted), return_exceptions=True)
        for (answer, _), error in zip(wanted, errors, strict=True):
            if isinstance(error, SageError):
                answer.fail(error.body())
            elif error is not None:
                raise error

    async def _publish(self, answer: Answer, wire: InferenceRequest) -> None:
        accepted: asyncio.Future[SageError | None] = asyncio.get_running_loop().create_future()

        def settled(error: SageError | None) -> None:
            if not accepted.done():
                accepted.set_result(error)

        self._readers.open(wire.id, 0, answer)
        try:
            # Unique, so that an id of an earlier process is not taken for the same request sent twice.
            message_id = f"{wire.id}-{secrets.token_hex(4)}"
            self._publisher.publish(subjects.requests(wire.model), encode(wire), message_id, MSGPACK, settled)
            error = await accepted
        except SageError:
            self._readers.close(wire.id)
            raise
        if error is not None:
            self._readers.close(wire.id)
            if isinstance(error, BrokerError):  # it may be stored nevertheless
                self._readers.cancel([wire.id])
            raise error
        if answer.result is not None:  # cancelled while it was on its way
            self._readers.cancel([wire.id])
        answer.queued()

    def _on_end(self, answer: Answer) -> None:
        request_id = answer.request.request_id
        assert answer.result is not None
        del self._open[request_id]
        self._ended[request_id] = answer
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        self._recorder.ended(answer.request, answer.result)
