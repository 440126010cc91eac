"""The AsyncAPI 3.0 document of everything that crosses NATS, made from the Structs themselves.

It is written from the pipeline's side: `receive` is what clients send to sageLLM, `send` what they get from it.
"""

import inspect
from typing import Any

import msgspec

from . import subjects
from .codec import JSON, MSGPACK
from .frames import Frame, HeldQuery, HeldReply
from .instances import Control, InstanceInfo, InstanceReport, InstanceStats, Lease, ModelCard
from .metrics import MetricsQuery, Snapshot
from .orders import (
    CancelAnswer,
    CancelOrder,
    ChangeOrder,
    InstanceChanged,
    InstanceOrder,
    RequestChanged,
    SwitchOrder,
)
from .prefix_updates import PrefixUpdate
from .queries import (
    InstancesPage,
    InstancesQuery,
    PolicyQuery,
    PolicyView,
    QueuePage,
    QueueQuery,
    Refusal,
    Registration,
    RequestQuery,
    RequestsPage,
    RequestsQuery,
    RequestView,
)
from .request import InferenceRequest
from .work import Cancel, DeadLetter, WorkItem, WorkReport

SCHEMAS = "#/components/schemas/"

PARAMETERS = {
    "model": "name of a model, every character outside `[A-Za-z0-9_-]` replaced by `_`",
    "role": "what the instance does: general, prefilling, decoding, hybrid or embedding",
    "instance": "id of a worker",
    "owner": "who reads the replies, for example one ingress process",
    "id": "id of a request",
    "server": "id of a registered server",
}


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A subject, what travels on it, and what sageLLM does there.

    `client` marks the channels that clients use; `reply` names the channel that answers, `reply_with` the type,
    `refused_with` that of an answer that says no.
    """

    address: str
    summary: str
    message: type[msgspec.Struct]
    action: str
    content_type: str = MSGPACK
    client: bool = False
    reply: str | None = None
    reply_with: type[msgspec.Struct] | None = None
    refused_with: type[msgspec.Struct] | None = None

    @property
    def replies(self) -> list[type[msgspec.Struct]]:
        """What it may be answered with."""
        return [kind for kind in (self.reply_with, self.refused_with) if kind is not None]


def channels() -> dict[str, Channel]:
    """Every channel by name."""
    prefix = subjects.PREFIX
    return {
        "requests": Channel(
            address=f"{prefix}.requests.{{model}}",
            summary="The durable queue (JetStream). A published request is kept until it has ended.",
            message=InferenceRequest,
            action="receive",
            content_type=JSON,
            client=True,
        ),
        "infer": Channel(
            address=f"{prefix}.infer.{{model}}",
            summary="A NATS micro service: the frames come to the message's reply subject.",
            message=InferenceRequest,
            action="receive",
            content_type=JSON,
            client=True,
            reply="inbox",
            reply_with=Frame,
        ),
        "replies": Channel(
            address=f"{prefix}.replies.{{owner}}",
            summary="Answers, one frame for each engine step and reader; or on any subject that `reply_to` names.",
            message=Frame,
            action="send",
            content_type=JSON,
            client=True,
        ),
        "results": Channel(
            address=f"{prefix}.results.{{id}}",
            summary="Final results of background and batch requests (JetStream).",
            message=Frame,
            action="send",
            content_type=JSON,
            client=True,
        ),
        "cancel": Channel(
            address=subjects.CANCEL,
            summary="Stop requests, wherever they are.",
            message=Cancel,
            action="receive",
            content_type=JSON,
            client=True,
        ),
        "deadletter": Channel(
            address=f"{prefix}.deadletter.{{model}}",
            summary="Requests that failed every attempt or could not be read (JetStream).",
            message=DeadLetter,
            action="send",
        ),
        "work": Channel(
            address=f"{prefix}.work.{{role}}.{{instance}}",
            summary="Scheduler to worker: one request assigned to one instance (JetStream).",
            message=WorkItem,
            action="send",
        ),
        "reports": Channel(
            address=f"{prefix}.reports.{{instance}}",
            summary="Worker to scheduler: what became of work items.",
            message=WorkReport,
            action="send",
        ),
        "prefixes": Channel(
            address=f"{prefix}.prefixes.{{instance}}",
            summary="Worker to scheduler: what its prefix cache holds, as changes and now and then in full.",
            message=PrefixUpdate,
            action="send",
        ),
        "stats": Channel(
            address=f"{prefix}.stats.{{instance}}",
            summary="Heartbeats of the workers.",
            message=InstanceStats,
            action="send",
        ),
        "control": Channel(
            address=f"{prefix}.control.{{instance}}",
            summary="Orders to a worker, which answers with a report.",
            message=Control,
            action="receive",
            reply="inbox",
            reply_with=InstanceReport,
        ),
        "metrics": Channel(
            address=subjects.METRICS,
            summary="Metrics of the whole pipeline, from the leading scheduler.",
            message=MetricsQuery,
            action="receive",
            content_type=JSON,
            client=True,
            reply="inbox",
            reply_with=Snapshot,
        ),
        **_management(),
        "held": Channel(
            address=f"{prefix}.held.{{owner}}",
            summary="What does the reader hold of its unfinished answers?",
            message=HeldQuery,
            action="send",
            reply="inbox",
            reply_with=HeldReply,
        ),
        "models": Channel(
            address=f"$KV.{subjects.MODELS_BUCKET}.{{model}}",
            summary="Key-value bucket: the models that workers have served.",
            message=ModelCard,
            action="send",
            content_type=JSON,
        ),
        "instances": Channel(
            address=f"$KV.{subjects.INSTANCES_BUCKET}.{{instance}}",
            summary="Key-value bucket: the workers that are there.",
            message=InstanceInfo,
            action="send",
            content_type=JSON,
        ),
        "servers": Channel(
            address=f"$KV.{subjects.ORDERS_BUCKET}.server.{{server}}",
            summary="Key-value bucket: the servers that operators have registered.",
            message=Registration,
            action="send",
            content_type=JSON,
        ),
        "lease": Channel(
            address=f"$KV.{subjects.LEASE_BUCKET}.scheduler",
            summary="Key-value bucket: which scheduler leads.",
            message=Lease,
            action="send",
        ),
    }


def _management() -> dict[str, Channel]:
    """What operators ask of the leading scheduler, and order."""
    table: tuple[tuple[str, str, type[msgspec.Struct], type[msgspec.Struct]], ...] = (
        (
            subjects.MANAGE_QUEUE,
            "What waits, where it stands, and why.",
            QueueQuery,
            QueuePage,
        ),
        (subjects.MANAGE_REQUESTS, "The requests that have not ended.", RequestsQuery, RequestsPage),
        (subjects.MANAGE_REQUEST, "One request that has not ended.", RequestQuery, RequestView),
        (subjects.MANAGE_CHANGE, "Another priority or deadline for a request.", ChangeOrder, RequestChanged),
        (subjects.MANAGE_CANCEL, "End requests, and hear what they were doing.", CancelOrder, CancelAnswer),
        (subjects.MANAGE_INSTANCES, "The instances, and registered servers.", InstancesQuery, InstancesPage),
        (subjects.MANAGE_INSTANCE, "Close, open or drain an instance.", InstanceOrder, InstanceChanged),
        (subjects.MANAGE_REGISTER, "Serve an OpenAI or vLLM server that runs.", Registration, Registration),
        (subjects.MANAGE_POLICY, "The policy and routing in use, and why.", PolicyQuery, PolicyView),
        (subjects.MANAGE_SWITCH, "Use another policy or routing from now on.", SwitchOrder, PolicyView),
    )
    return {
        f"manage_{subject.rpartition('.')[2]}": Channel(
            address=subject,
            summary=summary,
            message=message,
            action="receive",
            content_type=JSON,
            client=True,
            reply="inbox",
            reply_with=answer,
            refused_with=Refusal,
        )
        for subject, summary, message, answer in table
    }


def document(version: str = "1") -> dict[str, Any]:
    """The document, ready for `json.dumps`. `version` is that of the pipeline."""
    table = channels()
    types = {kind for channel in table.values() for kind in (channel.message, *channel.replies)}
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template=SCHEMAS + "{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "sageLLM",
            "version": version,
            "description": (
                "A durable, policy-scheduled LLM serving pipeline on NATS. Messages are JSON or MessagePack, by "
                f"the `{subjects.CONTENT_TYPE}` header or else by their first byte; answers come in the kind that "
                "the request used. Within v1, fields are only added, and readers ignore those they do not know."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "servers": {"nats": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {name: _channel(channel) for name, channel in table.items()} | {"inbox": _inbox(table)},
        "operations": {f"{channel.action}_{name}": _operation(name, channel) for name, channel in table.items()},
        "components": {
            "messages": {kind.__name__: _message(kind, table) for kind in ordered},
            "schemas": {name: _plain(schema) for name, schema in schemas.items()},
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    described: dict[str, Any] = {
        "address": channel.address,
        "description": channel.summary,
        "messages": _messages(channel.message),
        "tags": [{"name": "clients" if channel.client else "internal"}],
    }
    used = {name: {"description": text} for name, text in PARAMETERS.items() if f"{{{name}}}" in channel.address}
    return described | ({"parameters": used} if used else {})


def _inbox(table: dict[str, Channel]) -> dict[str, Any]:
    replies = [kind for channel in table.values() for kind in channel.replies]
    return {
        "address": None,
        "description": "The reply subject of a request.",
        "messages": {name: ref for kind in replies for name, ref in _messages(kind).items()},
    }


def _messages(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"}}


def _operation(name: str, channel: Channel) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": channel.action,
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": channel.summary,
        "messages": [{"$ref": f"#/channels/{name}/messages/{channel.message.__name__}"}],
    }
    if channel.reply:
        operation["reply"] = {
            "channel": {"$ref": f"#/channels/{channel.reply}"},
            "messages": [
                {"$ref": f"#/channels/{channel.reply}/messages/{kind.__name__}"} for kind in channel.replies
            ],
        }
    return operation


def _message(kind: type[msgspec.Struct], table: dict[str, Channel]) -> dict[str, Any]:
    usual = [channel.content_type for channel in table.values() if kind in (channel.message, *channel.replies)]
    return {
        "name": kind.__name__,
        "summary": (inspect.getdoc(kind) or "").partition("\n")[0],
        "contentType": usual[0],
        "headers": {
            "type": "object",
            "properties": {subjects.CONTENT_TYPE: {"type": "string", "enum": [JSON, MSGPACK]}},
        },
        "payload": {"$ref": SCHEMAS + kind.__name__},
    }


def _plain(schema: Any) -> Any:
    """`schema` as AsyncAPI has it: a discriminator is the name of a property, and texts are not indented."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items()}
    if isinstance(plain.get("discriminator"), dict):
        plain["discriminator"] = plain["discriminator"]["propertyName"]
    if isinstance(plain.get("description"), str):
        plain["description"] = inspect.cleandoc(plain["description"])
    return plain
