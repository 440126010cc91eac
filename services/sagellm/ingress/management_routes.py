"""The table of `/v1/management`: which request over HTTP is which question or order to the leading scheduler."""

from collections.abc import Callable
from typing import Any

import msgspec

from sagellm_schemas import (
    CancelAnswer,
    CancelOrder,
    ChangeOrder,
    InstanceChanged,
    InstanceOrder,
    InstancesPage,
    InstancesQuery,
    InstanceView,
    InvalidRequest,
    MetricsQuery,
    NotFound,
    PolicyQuery,
    PolicyView,
    QueuePage,
    QueueQuery,
    Registration,
    RequestChanged,
    RequestQuery,
    RequestsPage,
    RequestsQuery,
    RequestView,
    Snapshot,
    SwitchOrder,
    subjects,
)

PREFIX = "/v1/management"

Fields = dict[str, Any]


class InstancePatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close an instance, so that it is sent no more requests, or open it again."""

    closed: bool
    reason: str = ""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    `asked` makes the message from the path's `{id}` and the fields of the query string or the body, which `query`
    or `body` describe; with neither there are none. `result` is what to answer with, of the type `shown`, made
    from the scheduler's `answer`.
    """

    method: str
    path: str
    summary: str
    subject: str
    asked: Callable[[str, Fields], msgspec.Struct]
    answer: type[msgspec.Struct]
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    shown: type[msgspec.Struct] | None = None
    result: Callable[[Any], msgspec.Struct] | None = None
    status: int = 200

    @property
    def result_type(self) -> type[msgspec.Struct]:
        """The type of what is answered."""
        return self.shown or self.answer


def routes() -> list[Route]:
    """All of them."""
    return [
        Route(
            method="GET",
            path="/queue",
            summary="What waits, in order, when it will start, and why it does not run yet",
            subject=subjects.MANAGE_QUEUE,
            asked=lambda _, fields: _read(fields, QueueQuery),
            answer=QueuePage,
            query=QueueQuery,
        ),
        Route(
            method="GET",
            path="/requests",
            summary="The requests that have not ended",
            subject=subjects.MANAGE_REQUESTS,
            asked=lambda _, fields: _read(fields, RequestsQuery),
            answer=RequestsPage,
            query=RequestsQuery,
        ),
        Route(
            method="GET",
            path="/requests/{id}",
            summary="One request: its place in the queue and why, or where it runs",
            subject=subjects.MANAGE_REQUEST,
            asked=lambda id_, _: RequestQuery(id=id_),
            answer=RequestView,
        ),
        Route(
            method="PATCH",
            path="/requests/{id}",
            summary="Change priority or deadlines; null takes a deadline away",
            subject=subjects.MANAGE_CHANGE,
            asked=lambda id_, fields: _read(fields | {"id": id_}, ChangeOrder),
            answer=RequestChanged,
            body=ChangeOrder,
        ),
        Route(
            method="DELETE",
            path="/requests/{id}",
            summary="Cancel a request, waiting or running",
            subject=subjects.MANAGE_CANCEL,
            asked=lambda id_, _: CancelOrder(ids=[id_]),
            answer=CancelAnswer,
            result=_cancelled,
        ),
        Route(
            method="POST",
            path="/cancel",
            summary="Cancel several requests at once",
            subject=subjects.MANAGE_CANCEL,
            asked=lambda _, fields: _read(fields, CancelOrder),
            answer=CancelAnswer,
            body=CancelOrder,
        ),
        Route(
            method="GET",
            path="/instances",
            summary="The instances, and the registered servers",
            subject=subjects.MANAGE_INSTANCES,
            asked=lambda _, fields: _read(fields, InstancesQuery),
            answer=InstancesPage,
            query=InstancesQuery,
        ),
        Route(
            method="POST",
            path="/instances",
            summary="Register an OpenAI or vLLM server that runs",
            subject=subjects.MANAGE_REGISTER,
            asked=lambda _, fields: _read(fields, Registration),
            answer=Registration,
            body=Registration,
            status=201,
        ),
        Route(
            method="GET",
            path="/instances/{id}",
            summary="One instance",
            subject=subjects.MANAGE_INSTANCES,
            asked=lambda id_, _: InstancesQuery(id=id_),
            answer=InstancesPage,
            shown=InstanceView,
            result=lambda page: page.instances[0],
        ),
        Route(
            method="PATCH",
            path="/instances/{id}",
            summary="Close an instance, so that it is sent no more requests, or open it again",
            subject=subjects.MANAGE_INSTANCE,
            asked=_close_or_open,
            answer=InstanceChanged,
            body=InstancePatch,
        ),
        Route(
            method="DELETE",
            path="/instances/{id}",
            summary="Drain an instance: it finishes what it runs and leaves; a registered server is forgotten",
            subject=subjects.MANAGE_INSTANCE,
            asked=lambda id_, _: InstanceOrder(id=id_, action="drain"),
            answer=InstanceChanged,
        ),
        Route(
            method="GET",
            path="/policy",
            summary="Policy and routing in use, why, and what else there is",
            subject=subjects.MANAGE_POLICY,
            asked=lambda _id, _: PolicyQuery(),
            answer=PolicyView,
        ),
        Route(
            method="PATCH",
            path="/policy",
            summary="Switch policy or routing; null goes back to the setting",
            subject=subjects.MANAGE_SWITCH,
            asked=lambda _, fields: _read(fields, SwitchOrder),
            answer=PolicyView,
            body=SwitchOrder,
        ),
        Route(
            method="GET",
            path="/metrics",
            summary="How the whole pipeline does, as the leading scheduler sees it",
            subject=subjects.METRICS,
            asked=lambda _id, _: MetricsQuery(),
            answer=Snapshot,
        ),
    ]


def _read(fields: Fields, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """`fields` as `kind`; numbers may be texts, as they are in a query string.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    unknown = sorted(set(fields) - set(kind.__struct_encode_fields__))
    if unknown:
        known = ", ".join(kind.__struct_encode_fields__) or "none"
        raise InvalidRequest(f"there is no field {unknown[0][:100]!r}; there are {known}", param=unknown[0][:100])
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        raise InvalidRequest(text, param=path.rstrip("`") or None) from None


def _close_or_open(instance_id: str, fields: Fields) -> msgspec.Struct:
    patch = _read(fields, InstancePatch)
    assert isinstance(patch, InstancePatch)
    return InstanceOrder(id=instance_id, action="close" if patch.closed else "open", reason=patch.reason)


def _cancelled(answer: CancelAnswer) -> CancelAnswer:
    if answer.unknown:
        raise NotFound(f"there is no request {answer.unknown[0]!r}: it has ended, or never came", param="id")
    return answer
