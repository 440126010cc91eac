"""The streams and buckets, with their limits. Every service makes sure of them, so any may start first."""

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import (
    DiscardPolicy,
    KeyValueConfig,
    ObjectStoreConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from sagellm.settings import GIB, MIB, Settings
from sagellm_schemas import BrokerError, subjects

DEDUPLICATION_WINDOW_S = 120.0
DAY_S = 86_400.0
CLAIM_TTL_S = 5.0
"""A registered server whose worker process has been silent for so long goes to another one."""


def streams(settings: Settings) -> list[StreamConfig]:
    """What is kept where, how long, and what happens when it is full."""
    storage = StorageType(settings.storage)
    return [
        StreamConfig(
            name=subjects.REQUESTS_STREAM,
            description="Every accepted request, until it has ended",
            subjects=[subjects.ALL_REQUESTS],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=storage,
            max_msgs=settings.queue_max_messages,
            max_bytes=settings.queue_max_bytes,
            discard=DiscardPolicy.NEW,
            duplicate_window=DEDUPLICATION_WINDOW_S,
            num_replicas=settings.replicas,
            allow_direct=True,
        ),
        StreamConfig(
            name=subjects.WORK_STREAM,
            description="Work items on their way to workers; REQUESTS can rebuild it",
            subjects=[subjects.ALL_WORK],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.MEMORY,
            max_bytes=GIB,
            max_age=DAY_S,
            discard=DiscardPolicy.NEW,
            num_replicas=settings.replicas,
            allow_direct=True,
        ),
        StreamConfig(
            name=subjects.DEADLETTER_STREAM,
            description="Requests that failed every attempt or could not be read, with the reasons",
            subjects=[subjects.ALL_DEADLETTERS],
            retention=RetentionPolicy.LIMITS,
            storage=storage,
            max_msgs=100_000,
            max_bytes=GIB,
            max_age=30 * DAY_S,
            discard=DiscardPolicy.OLD,
            num_replicas=settings.replicas,
        ),
        StreamConfig(
            name=subjects.RESULTS_STREAM,
            description="Final results of background and batch requests",
            subjects=[subjects.ALL_RESULTS],
            retention=RetentionPolicy.LIMITS,
            storage=storage,
            max_bytes=4 * GIB,
            max_age=DAY_S,
            max_msgs_per_subject=1,
            discard=DiscardPolicy.OLD,
            num_replicas=settings.replicas,
        ),
    ]


def buckets(settings: Settings) -> list[KeyValueConfig]:
    """The key-value buckets. An entry of a bucket with a TTL is gone unless its writer refreshes it."""
    return [
        KeyValueConfig(
            bucket=subjects.INSTANCES_BUCKET,
            description="Registered workers",
            ttl=max(10.0, 5 * settings.heartbeat_timeout_s),
            storage=StorageType.MEMORY,
            max_bytes=64 * MIB,
            replicas=settings.replicas,
        ),
        KeyValueConfig(
            bucket=subjects.MODELS_BUCKET,
            description="Model cards",
            storage=StorageType.FILE,
            max_bytes=64 * MIB,
            replicas=settings.replicas,
        ),
        KeyValueConfig(
            bucket=subjects.LEASE_BUCKET,
            description="Which scheduler leads",
            ttl=settings.lease_ttl_s,
            storage=StorageType.MEMORY,
            max_bytes=MIB,
            replicas=settings.replicas,
        ),
        KeyValueConfig(
            bucket=subjects.ATTEMPTS_BUCKET,
            description="The leadership term, and failed attempts of requests that are still outstanding",
            storage=StorageType.FILE,
            max_bytes=256 * MIB,
            replicas=settings.replicas,
        ),
        KeyValueConfig(
            bucket=subjects.ORDERS_BUCKET,
            description="Operators' orders that hold until they are taken back: policy, closed instances, servers",
            storage=StorageType.FILE,
            max_bytes=16 * MIB,
            replicas=settings.replicas,
        ),
        KeyValueConfig(
            bucket=subjects.CLAIMS_BUCKET,
            description="Which worker process serves which registered server",
            ttl=CLAIM_TTL_S,
            storage=StorageType.MEMORY,
            max_bytes=MIB,
            replicas=settings.replicas,
        ),
    ]


async def ensure_topology(js: JetStreamContext, settings: Settings) -> None:
    """Create what is missing and bring limits that differ up to the settings.

    Raises:
        BrokerError: the server refuses, for example for want of space or because a stream of that name has
            another retention or storage.
    """
    for config in streams(settings):
        await _ensure_stream(js, config)
    for bucket in buckets(settings):
        await _ensure_bucket(js, bucket)
    try:
        await js.create_object_store(
            subjects.TOKENIZERS_BUCKET,
            config=ObjectStoreConfig(
                description="Tokenizers, for ingresses that have no model files", replicas=settings.replicas
            ),
        )
    except nats.js.errors.Error as error:
        raise _refused(f"object store {subjects.TOKENIZERS_BUCKET}", error) from None


async def _ensure_stream(js: JetStreamContext, config: StreamConfig) -> None:
    try:
        await js.add_stream(config)
    except nats.js.errors.BadRequestError:
        # It exists with other limits (or cannot be made: then the update says why).
        try:
            await js.update_stream(config)
        except nats.js.errors.Error as error:
            raise _refused(f"stream {config.name}", error) from None
    except nats.js.errors.Error as error:
        raise _refused(f"stream {config.name}", error) from None


async def _ensure_bucket(js: JetStreamContext, config: KeyValueConfig) -> None:
    try:
        await js.create_key_value(config)
    except nats.js.errors.BadRequestError:
        try:
            await _change_ttl(js, config)
        except nats.js.errors.Error as error:
            raise _refused(f"bucket {config.bucket}", error) from None
    except nats.js.errors.Error as error:
        raise _refused(f"bucket {config.bucket}", error) from None


async def _change_ttl(js: JetStreamContext, config: KeyValueConfig) -> None:
    """A bucket that exists with another TTL takes the new one."""
    info = await js.stream_info(f"KV_{config.bucket}")
    window = min(DEDUPLICATION_WINDOW_S, config.ttl or DEDUPLICATION_WINDOW_S)
    await js.update_stream(info.config.evolve(max_age=config.ttl or 0.0, duplicate_window=window))


def _refused(what: str, error: Exception) -> BrokerError:
    return BrokerError(f"NATS refuses to make the {what}: {getattr(error, 'description', None) or error}")
