"""Waiting until the pipeline answers: every worker's heartbeat says READY, and so does the ingress."""

import asyncio
import contextlib
from collections.abc import Sequence

from sagellm.broker import Message, connect
from sagellm.settings import Settings
from sagellm_schemas import Codec, EngineState, InstanceStats, SageError, subjects

POLL_INTERVAL_S = 0.05


async def wait_until_ready(
    settings: Settings, ingress_url: asyncio.Future[str], instances: Sequence[str]
) -> tuple[str, str]:
    """The ingress's URL and the model's name, once every one of `instances` (name prefixes) is READY and the
    ingress answers its readiness probe.

    Raises:
        BrokerError: NATS cannot be used.
    """
    model = await _wait_for_workers(settings, instances)
    url = await asyncio.shield(ingress_url)
    await _wait_for_ingress(url)
    return url, model


async def _wait_for_workers(settings: Settings, instances: Sequence[str]) -> str:
    codec = Codec(InstanceStats)
    missing = set(instances)
    model: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_heartbeat(message: Message) -> None:
        with contextlib.suppress(SageError):
            heartbeat = codec.decode(message.data)
            if heartbeat.state is not EngineState.READY:
                return
            missing.difference_update([i for i in missing if heartbeat.info.instance_id.startswith(i)])
            if not missing and not model.done():
                model.set_result(heartbeat.info.model)

    async with connect(settings, "sagellm-up") as connection:
        await connection.nc.handle(subjects.ALL_STATS, on_heartbeat)
        return await model


async def _wait_for_ingress(url: str) -> None:
    # Imported while the workers load their model: by now it costs nobody time.
    from sagellm.cli.openai_client import OpenAIClient

    server = OpenAIClient(url)
    try:
        while not await server.ready():  # noqa: ASYNC110 (another process is asked)
            await asyncio.sleep(POLL_INTERVAL_S)
    finally:
        await server.close()
