"""What operators' commands print, and refuse before they ask anybody."""

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sagellm.cli.main import build
from sagellm.cli.management.frame import Rates, Seen, draw
from sagellm.cli.management.output import console, duration
from sagellm.cli.management.queue import own_reason, requests_table
from sagellm_schemas import (
    EngineState,
    InstanceRole,
    InstancesPage,
    InstanceView,
    ModelQueue,
    PolicyView,
    QueuePage,
    RequestsPage,
    RequestStatus,
    RequestView,
    SageError,
    Snapshot,
)

OBSTACLE = "the only instance that takes work is full (4 of 4 places in use)"


def request(name: str, reason: str = "", **fields: object) -> RequestView:
    known = {"model": "m", "status": RequestStatus.QUEUED, "user_id": "u", "priority": 1, "arrived_at": 1000.0}
    return RequestView(**({"id": name, "waited_s": 0.5, "prompt_tokens": 3, "reason": reason} | known | fields))


def instance(name: str, tokens: int) -> InstanceView:
    return InstanceView(
        id=name,
        model="m",
        role=InstanceRole.GENERAL,
        engine="mock",
        host="here",
        state=EngineState.READY,
        takes_work=False,
        reason="is closed by an operator (new fan)",
        closed="new fan",
        running=2,
        max_concurrent_requests=4,
        load=0.5,
        heard_s=0.1,
        step_ms=20.0,
        kv_used=0.25,
        output_tokens_total=tokens,
        price_per_hour=0.0,
        started_at=900.0,
    )


def seen(at: float = 1000.0, tokens: int = 0, waiting: int = 3) -> Seen:
    queue = [
        request(
            f"w{i}", f"{i} requests go before it under fair (user 'u' has had most), and {OBSTACLE}.", position=i
        )
        for i in range(1, waiting + 1)
    ]
    return Seen(
        metrics=Snapshot(taken_at=at, window_s=60.0, running_requests=2, queue_length=waiting, total_requests=9),
        policy=PolicyView(
            policy="adaptive",
            active="fair",
            reason="user 'u' sends most",
            routing="random",
            policy_setting="fifo",
            routing_setting="random",
            switched_at=900.0,
            policies=[],
            routings=[],
            term=1,
        ),
        queue=QueuePage(
            taken_at=at,
            policy="adaptive",
            requests=queue,
            models=[ModelQueue(model="m", waiting=waiting, running=2, credits=4, instances=1, obstacle=OBSTACLE)],
            total=waiting,
            more=False,
        ),
        instances=InstancesPage(taken_at=at, instances=[instance("i1", tokens)], servers=[]),
        running=RequestsPage(
            taken_at=at,
            requests=[request("r1", status=RequestStatus.RUNNING, dispatched_at=at - 2, instance="i1", attempt=1)],
            total=2,
        ),
    )


def shown(frame: object, height: int = 40) -> str:
    console = Console(width=120, height=height)
    with console.capture() as capture:
        console.print(frame)
    return capture.get()


def test_a_frame_shows_policy_models_instances_and_requests() -> None:
    rates = Rates()
    rates.saw(seen(at=1000.0, tokens=100))
    rates.saw(seen(at=1002.0, tokens=500))
    text = shown(draw(seen(at=1002.0, tokens=500), rates, height=40))
    assert "2 running, 3 waiting, 200 tokens/s" in text
    assert "policy adaptive, now fair: user 'u' sends most; routing random  [switched by an operator]" in text
    assert f"m: {OBSTACLE}" in text
    assert "no end in sight" in text
    for piece in ("i1", "closed", "50%", "2/4", "new fan", "r1", "2.0 s", "user 'u' has had most"):
        assert piece in text
    assert "requests go before it" not in text  # its place says so


@pytest.mark.parametrize("height", [24, 30, 50])
def test_a_frame_fits_the_screen_however_long_the_queue(height: int) -> None:
    lines = shown(draw(seen(waiting=150), Rates(), height=height), height).rstrip("\n").split("\n")
    assert len(lines) <= height
    assert any("more" in line for line in lines)


def test_a_reason_is_cut_to_what_stands_nowhere_else() -> None:
    told = {"m": OBSTACLE}
    head = "It goes next, but "
    assert (
        own_reason(request("a", f"3 requests go before it under priority (as LOW), and {OBSTACLE}."), told)
        == "as LOW"
    )
    assert (
        own_reason(request("a", "3 requests go before it under mine."), {})
        == "3 requests go before it under mine."
    )
    assert own_reason(request("a", f"{head}{OBSTACLE}."), told) == f"{head}{OBSTACLE}."


def test_what_clients_call_themselves_cannot_steer_the_terminal() -> None:
    page = seen().queue
    hostile = QueuePage(
        taken_at=1000.0,
        policy="fifo",
        requests=[request("a", user_id="[/red]\x1b[31m\r\n")],
        models=page.models,
        total=1,
        more=False,
    )
    out = console()
    with out.capture() as capture:
        out.print(requests_table(hostile))
    assert "[/red]?[31m??" in capture.get()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-1, "now"), (0.0123, "12 ms"), (2.34, "2.3 s"), (150, "2 min"), (9000, "2.5 h")],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["requests", "--cancel"], "say which requests: give their ids"),
        (["requests", "a", "--cancel", "--to-priority", "low"], "there is nothing left to change"),
        (["requests", "a", "--ttft-slo-ms", "soon"], "ttft_slo_ms must be a number of milliseconds, or 'none'"),
        (["policy", "use"], "give a policy, or --routing"),
        (["policy", "--json", "use", "fair"], "put options behind the subcommand"),
        (["instances", "--url", "http://x", "close", "a"], "put options behind the subcommand"),
        (["queue", "--url", "http://x:port"], "is not a URL"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(build(), arguments)
    assert isinstance(result.exception, SageError)
    assert message in result.exception.message
