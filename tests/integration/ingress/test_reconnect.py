"""An ingress outlives its NATS server."""

import asyncio
import contextlib
from pathlib import Path

import httpx
from pydantic import SecretStr

from sagellm.broker import connect, embedded_server, ensure_topology
from sagellm.settings import Settings

from .backend import MODEL, TEXT, Backend, byte_tokenizer, card, publish_card
from .conftest import StartIngress

PATH = "/v1/chat/completions"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


async def test_an_ingress_goes_on_when_its_nats_server_was_restarted(tmp_path: Path, start_ingress: StartIngress):
    tokenizer = byte_tokenizer()
    store = tmp_path / "restarted"
    async with contextlib.AsyncExitStack() as ingress:
        async with embedded_server(store, max_payload_bytes=8 << 20) as first:
            settings = Settings(nats_url=first.url, nats_token=SecretStr(first.token))
            async with connect(settings, name="test") as connection:
                await ensure_topology(connection.js, settings)
                await publish_card(connection, card(tokenizer=tokenizer), tokenizer)
            broker = {"nats_url": first.url, "nats_token": settings.nats_token, "storage": "file"}
            url = await ingress.enter_async_context(start_ingress(publish_timeout_s=0.3, **broker))
            http = await ingress.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10))
        assert (await http.post(PATH, json=HELLO)).status_code == 503
        assert (await http.get("/ready")).json()["reason"] == "there is no connection to NATS"

        port = int(first.url.rpartition(":")[2])
        async with (
            embedded_server(store, max_payload_bytes=8 << 20, port=port, token=first.token),
            connect(settings, name="test") as connection,
            Backend(connection).running(),
            asyncio.timeout(10),
        ):
            while (await http.get("/ready")).json()["reason"] != "no worker is ready yet":
                await asyncio.sleep(0.02)
            assert (await http.post(PATH, json=HELLO)).json()["choices"][0]["message"]["content"] == TEXT
            await publish_card(connection, card("newcomer"), None)
            while (await http.get("/v1/models/newcomer")).status_code != 200:
                await asyncio.sleep(0.02)
