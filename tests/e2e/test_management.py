"""What operators see and do, over HTTP and at the command line, with everything running."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from .pipeline import RunningPipeline, sagellm

MANAGEMENT = "/v1/management"


@pytest.fixture
def http(mock_pipeline: RunningPipeline) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mock_pipeline.url, timeout=30) as client:
        yield client


@contextmanager
def asking(http: httpx.Client, model: str, **fields: object) -> Iterator[list[httpx.Response]]:
    """A request that takes long, and what became of it in the end."""
    answers: list[httpx.Response] = []
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 400} | fields
    thread = threading.Thread(target=lambda: answers.append(http.post("/v1/chat/completions", json=body)))
    thread.start()
    try:
        yield answers
    finally:
        thread.join(60)


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait for a state of another process."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def requests(http: httpx.Client, **query: str) -> list[dict[str, object]]:
    return http.get(f"{MANAGEMENT}/requests", params=query).json()["requests"]


def test_a_request_is_shown_changed_and_cancelled(mock_pipeline: RunningPipeline, http: httpx.Client) -> None:
    with asking(http, mock_pipeline.model, priority="low", user="somebody") as answers:
        until(lambda: requests(http, status="running"))
        (request,) = requests(http, status="running")
        path = f"{MANAGEMENT}/requests/{request['id']}"
        assert (request["priority"], request["model"]) == (3, mock_pipeline.model)
        changed = http.patch(path, json={"priority": "high", "slo_deadline_ms": 60_000}).json()
        assert "it runs already" in changed["effect"]
        assert (changed["request"]["priority"], changed["request"]["slo_deadline_ms"]) == (1, 60_000)
        shown = sagellm("requests", str(request["id"]), "--url", mock_pipeline.url)
        assert "HIGH (changed)" in shown.stdout
        assert http.delete(path).json()["cancelled"] == [
            {"id": request["id"], "was": "running", "instance": request["instance"]}
        ]
    assert answers[0].json()["error"]["code"] == "cancelled"
    until(lambda: not requests(http))
    assert http.delete(path).status_code == 404
    again = sagellm("requests", str(request["id"]), "--cancel", "--url", mock_pipeline.url)
    assert again.returncode == 1
    assert again.stderr.startswith(f"sagellm: there is no request {request['id']}")


def test_while_all_instances_are_closed_the_queue_says_so(
    mock_pipeline: RunningPipeline, http: httpx.Client
) -> None:
    instances = [instance["id"] for instance in http.get(f"{MANAGEMENT}/instances").json()["instances"]]
    for instance in instances:
        closed = sagellm("instances", "close", instance, "--reason", "repairs", "--url", mock_pipeline.url)
        assert "it is sent no more requests until it is opened" in closed.stdout
    with asking(http, mock_pipeline.model, max_tokens=2) as answers:
        until(lambda: http.get(f"{MANAGEMENT}/queue").json()["requests"])
        page = json.loads(sagellm("queue", "--json", "--url", mock_pipeline.url).stdout)
        assert page["requests"][0]["position"] == 1
        assert "is closed by an operator (repairs)" in page["requests"][0]["reason"]
        shown = sagellm("queue", "--url", mock_pipeline.url).stdout
        assert "none of the 2 instances takes work" in shown
        frame = sagellm("top", "--url", mock_pipeline.url).stdout
        assert "0 running, 1 waiting" in frame
        assert "none of the 2 instances takes work" in frame
        for instance in instances:
            assert http.patch(f"{MANAGEMENT}/instances/{instance}", json={"closed": False}).status_code == 200
    assert answers[0].status_code == 200
    assert all(instance in sagellm("instances", "--url", mock_pipeline.url).stdout for instance in instances)


def test_policy_and_routing_are_switched_and_reset(mock_pipeline: RunningPipeline, http: httpx.Client) -> None:
    switched = sagellm("policy", "use", "fair", "--routing", "random", "--url", mock_pipeline.url)
    assert "policy:  fair (an operator has switched to it)" in switched.stdout
    assert http.get(f"{MANAGEMENT}/metrics").json()["policy"] == "fair"
    view = http.patch(f"{MANAGEMENT}/policy", json={"routing": None}).json()
    assert (view["policy"], view["routing"]) == ("fair", "load_balanced")
    sagellm("policy", "reset", "--url", mock_pipeline.url)
    assert json.loads(sagellm("policy", "--json", "--url", mock_pipeline.url).stdout)["policy"] == "adaptive"
    refused = sagellm("policy", "use", "lifo", "--url", mock_pipeline.url)
    assert refused.returncode == 1
    assert refused.stderr.startswith("sagellm: there is no policy called 'lifo'; choose one of adaptive")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param", "message"),
    [
        ("GET", "/queue?limit=many", None, 400, "limit", "Expected `int`"),
        ("GET", "/queue?modl=m", None, 400, "modl", "there is no field 'modl'; there are model"),
        ("GET", "/requests/unheard-of", None, 404, "id", "there is no request 'unheard-of'"),
        ("GET", "/instances/unheard-of", None, 404, "id", "there is no instance 'unheard-of'"),
        ("PATCH", "/requests/a", {"priority": []}, 400, "priority", "Expected `int | str"),
        ("PATCH", "/policy", {"policy": "lifo"}, 400, "policy", "there is no policy called 'lifo'"),
        ("POST", "/instances", {"url": "gpu-1"}, 400, "url", "url must be the base URL"),
        ("POST", "/cancel", [1], 400, None, "the body is not a JSON object"),
        ("PUT", "/queue", {}, 405, None, "PUT /v1/management/queue is not allowed"),
    ],
)
def test_what_is_wrong_is_refused_in_the_shape_of_openais_errors(
    http: httpx.Client, method: str, path: str, body: object, status: int, param: str | None, message: str
) -> None:
    answer = http.request(method, MANAGEMENT + path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["message"].startswith(message)
    assert error["param"] == param


def test_orders_must_say_that_they_are_json(http: httpx.Client) -> None:
    """So that no page of another site can give them."""
    answer = http.post(f"{MANAGEMENT}/cancel", content=b'{"ids": ["a"]}', headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_a_drained_worker_leaves_and_is_not_started_again(
    mock_pipeline: RunningPipeline, http: httpx.Client
) -> None:
    """The last test: one of the two workers is gone after it."""
    leaving = http.get(f"{MANAGEMENT}/instances").json()["instances"][0]["id"]
    drained = sagellm("instances", "drain", leaving, "--url", mock_pipeline.url)
    assert "takes nothing new, finishes what it runs, and leaves" in drained.stdout
    until(lambda: any("has left, as it was told" in line for line in mock_pipeline.log))
    until(lambda: len(http.get(f"{MANAGEMENT}/instances").json()["instances"]) == 1)


def test_without_an_ingress_commands_say_what_to_do() -> None:
    answer = sagellm("queue", "--url", "http://127.0.0.1:9")
    assert answer.returncode == 1
    assert answer.stderr.startswith("sagellm: http://127.0.0.1:9 does not answer as a sageLLM ingress")
