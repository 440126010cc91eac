"""Bounds as clients of HTTP and of the infer service see them, with the real scheduler and worker behind."""

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest

from sagellm.broker import Connection
from sagellm.scheduler.main import run as run_scheduler
from sagellm.settings import Settings
from sagellm.worker import run as run_worker
from sagellm_schemas import JSON, InferenceRequest, encode, subjects

from .conftest import StartIngress

CHAT = "/v1/chat/completions"
MODEL = "mock"

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def chat(**fields: object) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5} | fields


@pytest.fixture
def serving(
    settings: Settings, connection: Connection, start_ingress: StartIngress, caplog: pytest.LogCaptureFixture
) -> Serving:
    """The whole pipeline in this process, with these settings, and a client of it."""
    caplog.set_level(logging.INFO, logger="sagellm")

    @contextlib.asynccontextmanager
    async def serve(**changes: object) -> AsyncIterator[httpx.AsyncClient]:
        mock = {"engine": "mock", "model": MODEL, "served_name": MODEL, "heartbeat_interval_s": 0.05}
        bounded = settings.model_copy(update=mock | changes)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_worker(bounded, stop))
            tasks.create_task(run_scheduler(bounded, stop))
            try:
                async with start_ingress() as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
                    async with asyncio.timeout(20):
                        while (
                            await http.get("/ready")
                        ).status_code != 200 or "leading in term" not in caplog.text:
                            await asyncio.sleep(0.02)
                    yield http
            finally:
                stop.set()

    return serve


async def test_beyond_a_users_requests_a_minute_the_answer_is_429_streamed_or_not(serving: Serving) -> None:
    async with serving(user_requests_per_minute=2) as http:
        for stream in (False, True):
            assert (await http.post(CHAT, json=chat(user="ann", stream=stream))).status_code == 200
        for stream in (False, True):
            response = await http.post(CHAT, json=chat(user="ann", stream=stream))
            assert response.status_code == 429
            assert response.headers["content-type"] == "application/json"
            assert 25 <= int(response.headers["retry-after"]) <= 30
            error = response.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert "ann" in error["message"]
        assert (await http.post(CHAT, json=chat(user="bob"))).status_code == 200


async def test_beyond_a_users_tokens_a_minute_only_what_is_too_large_is_refused(serving: Serving) -> None:
    async with serving(user_tokens_per_minute=400) as http:
        assert (await http.post(CHAT, json=chat(user="ann", max_tokens=100))).status_code == 200
        refused = await http.post(CHAT, json=chat(user="ann", max_tokens=390))
        assert refused.status_code == 429
        assert "tokens" in refused.json()["error"]["message"]
        assert (await http.post(CHAT, json=chat(user="ann", max_tokens=5))).status_code == 200


async def test_with_a_full_queue_the_answer_is_429_until_there_is_a_place(serving: Serving) -> None:
    async with serving(max_queued_per_model=1, max_num_seqs=1, mock_tpot_ms=5.0) as http:
        long = chat(stream=True, max_tokens=2000, can_be_preempted=False)
        async with http.stream("POST", CHAT, json=long) as running:
            assert running.status_code == 200
            asked = [asyncio.create_task(http.post(CHAT, json=chat(stream=i % 2 == 0))) for i in range(4)]
            for refused in itertools.islice(asyncio.as_completed(asked), 3):
                response = await refused
                assert response.status_code == 429
                assert response.json()["error"]["code"] == "queue_full"
                assert int(response.headers["retry-after"]) >= 1
            assert sum(task.done() for task in asked) == 3
        statuses = sorted([(await task).status_code for task in asked])
        assert statuses == [200, 429, 429, 429]
        assert (await http.post(CHAT, json=chat())).status_code == 200


async def test_every_choice_counts_and_a_refused_one_ends_the_answer(serving: Serving) -> None:
    async with serving(user_requests_per_minute=3) as http:
        assert (await http.post(CHAT, json=chat(n=3, user="ann"))).status_code == 200
        for stream in (False, True):
            assert (await http.post(CHAT, json=chat(n=2, user="bob", stream=stream))).status_code in (200, 429)
        assert (await http.post(CHAT, json=chat(n=4, user="eve"))).status_code == 429


async def test_clients_of_the_infer_service_are_told_as_a_failed_event(
    serving: Serving, connection: Connection
) -> None:
    async with serving(model_requests_per_minute=1) as http:
        assert (await http.post(CHAT, json=chat())).status_code == 200
        asked = InferenceRequest(model=MODEL, prompt="Hello", user_id="ann")
        reply = await connection.nc.request(subjects.infer(MODEL), encode(asked, JSON), timeout=10)
        (event,) = json.loads(reply.data)["events"]
        assert (event["type"], event["error"]["code"]) == ("failed", "rate_limit_exceeded")
        assert 0 < event["error"]["retry_after_s"] <= 60
