"""Every NATS name of the system: subjects, streams, buckets and headers, in one place.

Anything a third party may publish to or read from is named here and only here. `v1` is the version of the
message types too: within it fields are only ever added, each with a default.
"""

import re
from functools import lru_cache

PREFIX = "sagellm.v1"

# Streams and buckets.
REQUESTS_STREAM = "SAGELLM_REQUESTS"
WORK_STREAM = "SAGELLM_WORK"
DEADLETTER_STREAM = "SAGELLM_DEADLETTER"
RESULTS_STREAM = "SAGELLM_RESULTS"
INSTANCES_BUCKET = "sagellm_instances"
MODELS_BUCKET = "sagellm_models"
LEASE_BUCKET = "sagellm_lease"
ATTEMPTS_BUCKET = "sagellm_attempts"
ORDERS_BUCKET = "sagellm_orders"
CLAIMS_BUCKET = "sagellm_claims"
TOKENIZERS_BUCKET = "sagellm_tokenizers"  # an object store

# Wildcards that streams capture and services subscribe to.
ALL_REQUESTS = f"{PREFIX}.requests.>"
ALL_WORK = f"{PREFIX}.work.>"
ALL_DEADLETTERS = f"{PREFIX}.deadletter.>"
ALL_RESULTS = f"{PREFIX}.results.>"
ALL_STATS = f"{PREFIX}.stats.*"
ALL_PREFIXES = f"{PREFIX}.prefixes.*"
ALL_REPORTS = f"{PREFIX}.reports.*"
METRICS = f"{PREFIX}.manage.metrics"
MANAGE_QUEUE = f"{PREFIX}.manage.queue"
MANAGE_REQUESTS = f"{PREFIX}.manage.requests"
MANAGE_REQUEST = f"{PREFIX}.manage.request"
MANAGE_CHANGE = f"{PREFIX}.manage.change"
MANAGE_CANCEL = f"{PREFIX}.manage.cancel"
MANAGE_INSTANCES = f"{PREFIX}.manage.instances"
MANAGE_INSTANCE = f"{PREFIX}.manage.instance"
MANAGE_REGISTER = f"{PREFIX}.manage.register"
MANAGE_POLICY = f"{PREFIX}.manage.policy"
MANAGE_SWITCH = f"{PREFIX}.manage.switch"
CANCEL = f"{PREFIX}.cancel"

# Headers.
CONTENT_TYPE = "Content-Type"
MESSAGE_ID = "Nats-Msg-Id"
REPLY_TO = "Sagellm-Reply-To"

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@lru_cache(maxsize=4096)
def token(name: str) -> str:
    """`name` as one subject token: every character outside `[A-Za-z0-9_-]` becomes `_`."""
    return _UNSAFE.sub("_", name) or "_"


def requests(model: str) -> str:
    """JetStream: an `InferenceRequest` for `model`, kept until it has ended."""
    return f"{PREFIX}.requests.{token(model)}"


def infer(model: str) -> str:
    """Core NATS micro service: an `InferenceRequest` whose frames go to the message's reply subject."""
    return f"{PREFIX}.infer.{token(model)}"


def work(role: str, instance: str) -> str:
    """JetStream: `WorkItem`s for one instance in one role."""
    return f"{PREFIX}.work.{token(role)}.{token(instance)}"


def replies(owner: str) -> str:
    """Core: `Frame`s for the reader named `owner`."""
    return f"{PREFIX}.replies.{token(owner)}"


def held(owner: str) -> str:
    """Core request: a `HeldQuery`, answered by the reader named `owner` with a `HeldReply`."""
    return f"{PREFIX}.held.{token(owner)}"


def owner_of(reply_to: str) -> str | None:
    """The owner whose replies subject `reply_to` is; None for a subject of the client's own."""
    head = f"{PREFIX}.replies."
    return reply_to[len(head) :] if reply_to.startswith(head) else None


def control(instance: str) -> str:
    """Core request: a `Control` message to one instance."""
    return f"{PREFIX}.control.{token(instance)}"


def stats(instance: str) -> str:
    """Core: the heartbeat of one instance, `InstanceStats`."""
    return f"{PREFIX}.stats.{token(instance)}"


def reports(instance: str) -> str:
    """Core: what became of an instance's work items, `WorkReport`."""
    return f"{PREFIX}.reports.{token(instance)}"


def prefixes(instance: str) -> str:
    """Core: what an instance holds in its prefix cache, `PrefixUpdate`."""
    return f"{PREFIX}.prefixes.{token(instance)}"


def results(request_id: str) -> str:
    """JetStream: the final `Frame` of a background or batch request."""
    return f"{PREFIX}.results.{token(request_id)}"


def deadletter(model: str) -> str:
    """JetStream: a `DeadLetter`."""
    return f"{PREFIX}.deadletter.{token(model)}"
