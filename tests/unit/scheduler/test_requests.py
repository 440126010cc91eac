"""The records a leader keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm.broker import Message
from sagellm.scheduler import cancellations, requests
from sagellm.scheduler.adoption import Adoption
from sagellm.scheduler.attempts import AttemptRecord
from sagellm.scheduler.cancellations import Cancellations
from sagellm.scheduler.requests import RequestTable
from sagellm_schemas import (
    Cancel,
    Ended,
    EngineError,
    InvalidRequest,
    Outcome,
    RequestStatus,
    encode,
    subjects,
)

from .making import make_request


@given(st.lists(st.sampled_from(["failure", "return", "takeover"]), max_size=30))
def test_every_dispatch_has_a_higher_attempt_than_all_before_it(history: list[str]) -> None:
    tracked, term, attempts = make_request(1), 1, []
    for event in history:
        tracked.attempt = tracked.next_attempt(term)
        attempts.append(tracked.attempt)
        tracked.failures += event == "failure"
        tracked.returns += event == "return"
        if event == "takeover":
            counts = tracked.failures, tracked.returns
            term, tracked = term + 1, make_request(1)  # the new leader knows only what was stored
            tracked.failures, tracked.returns = counts
    assert attempts == sorted(set(attempts))


def test_a_settled_request_is_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REMEMBERED", 2)
    table = RequestTable()
    for sequence in (1, 2, 3):
        table.add(make_request(sequence))
        table.remove(table.at(sequence) or make_request(0))
    assert [table.was_settled(sequence) for sequence in (1, 2, 3)] == [False, True, True]
    assert len(table) == 0


def test_cancels_are_remembered_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(cancellations.time, "monotonic", lambda: now_s)
    memory = Cancellations()
    message = Message(subjects.CANCEL, "", encode(Cancel(ids=["a", "b"])), {})
    assert memory.read(message) == ["a", "b"]
    assert "a" in memory
    assert "c" not in memory
    now_s += 61
    assert "a" not in memory
    assert memory.read(Message(subjects.CANCEL, "", b"{nonsense", {})) == []


class Ways:
    """Records which way each request went."""

    def __init__(self) -> None:
        self.went: list[str] = []
        self.adoption = Adoption(self, self, lambda _: self.went.append("queued"))  # type: ignore[arg-type]

    def settle(self, _: object, ended: object = None) -> None:
        self.went.append("settled")

    def resume(self, _: object) -> None:
        self.went.append("resumed")

    def failed(self, _: object, error: object) -> None:
        self.went.append("failed")

    def returned(self, _: object) -> None:
        self.went.append("returned")


def test_a_replayed_request_goes_where_its_history_sends_it() -> None:
    broken, invalid = EngineError("x").body(), InvalidRequest("x").body()
    cases = {
        "resumed": {},
        "settled": {"ended": Ended(id="r1", attempt=1, outcome=Outcome.FINISHED)},
        "returned": {"ended": Ended(id="r1", attempt=1, outcome=Outcome.RETURNED)},
        "failed": {"ended": Ended(id="r1", attempt=1, outcome=Outcome.FAILED, error=broken)},
    }
    for way, known in cases.items():
        ways = Ways()
        if "ended" in known:
            ways.adoption.has_ended(known["ended"])
        ways.adoption.place(make_request(1))
        assert ways.went == [way]
    ways = Ways()
    ways.adoption.has_ended(Ended(id="r1", attempt=1, outcome=Outcome.FAILED, error=invalid))
    ways.adoption.place(make_request(1))
    assert ways.went == ["settled"]


def test_a_running_request_is_adopted_with_its_attempt() -> None:
    ways, tracked = Ways(), make_request(1)
    ways.adoption.runs("r1", 4, "w1")
    ways.adoption.runs("r1", 3, "zombie")
    ways.adoption.has_ended(Ended(id="r1", attempt=3, outcome=Outcome.RETURNED))
    ways.adoption.place(tracked)
    assert ways.went == []
    assert (tracked.status, tracked.attempt, tracked.instance) == (RequestStatus.RUNNING, 4, "w1")


def test_a_zombies_attempt_is_not_adopted() -> None:
    ways, tracked = Ways(), make_request(1)
    ways.adoption.records = {"r1": AttemptRecord(attempt=4, failures=1, returns=2, errors=[])}
    ways.adoption.runs("r1", 4, "zombie")
    ways.adoption.has_ended(Ended(id="r1", attempt=4, outcome=Outcome.FINISHED))
    ways.adoption.place(tracked)
    assert ways.went == ["resumed"]
    assert tracked.next_attempt(1) == 5


def test_after_the_replay_requests_are_new() -> None:
    ways = Ways()
    ways.adoption.replaying = False
    ways.adoption.place(make_request(1))
    assert ways.went == ["queued"]
