"""What the worker remembers, and for how long."""

import pytest

from sagellm.worker.ledger import MAX_REMEMBERED, REMEMBERED_S, Ledger
from sagellm_schemas import Ended, InferenceRequest, Outcome, WorkItem


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return Ledger(clock)


def item(request_id: str = "a", attempt: int = 1) -> WorkItem:
    return WorkItem(request=InferenceRequest(model="m", id=request_id, prompt="x"), attempt=attempt)


def ended(request_id: str = "a", attempt: int = 1) -> Ended:
    return Ended(id=request_id, attempt=attempt, outcome=Outcome.FINISHED)


def test_a_job_runs_until_it_ends(ledger: Ledger) -> None:
    job = ledger.accept(item(attempt=3), "ack")
    assert ledger.running("a") is job
    assert ledger.attempts() == {"a": 3}
    assert not ledger.idle.is_set()
    ledger.end(job, ended(attempt=3))
    assert ledger.running("a") is None
    assert ledger.idle.is_set()
    assert ledger.latest() == [ended(attempt=3)]


def test_attempts_up_to_the_last_that_ended_are_known(ledger: Ledger) -> None:
    ledger.end(ledger.accept(item(attempt=3), ""), ended(attempt=3))
    assert [ledger.has_ended("a", attempt) for attempt in (2, 3, 4)] == [True, True, False]
    assert not ledger.has_ended("b", 1)


def test_endings_are_forgotten_after_a_minute(ledger: Ledger, clock: Clock) -> None:
    ledger.end(ledger.accept(item("a"), ""), ended("a"))
    clock.now += REMEMBERED_S / 2
    ledger.end(ledger.accept(item("b"), ""), ended("b"))
    clock.now += REMEMBERED_S / 2 + 1
    assert ledger.latest() == [ended("b")]


def test_memory_is_bounded(ledger: Ledger) -> None:
    ledger.cancel(map(str, range(MAX_REMEMBERED + 10)))
    assert not ledger.was_cancelled("9")
    assert ledger.was_cancelled("10")


def test_cancelled_ids_are_known_for_a_minute(ledger: Ledger, clock: Clock) -> None:
    job = ledger.accept(item("a"), "")
    assert ledger.cancel(["a", "b"]) == [job]
    clock.now += REMEMBERED_S - 1
    assert ledger.was_cancelled("b")
    clock.now += 2
    assert not ledger.was_cancelled("b")


def test_a_request_that_runs_again_has_not_ended(ledger: Ledger) -> None:
    ledger.end(ledger.accept(item(attempt=1), ""), ended(attempt=1))
    ledger.accept(item(attempt=2), "")
    assert ledger.latest() == []


def test_terms_only_grow(ledger: Ledger) -> None:
    assert [ledger.fence(term) for term in (1, 3, 2, 3, 4)] == [True, True, False, True, True]
    assert ledger.term == 4


def test_pauses_longer_than_the_slo_are_counted(ledger: Ledger, clock: Clock) -> None:
    request = InferenceRequest(model="m", id="a", prompt="x", tbt_slo_ms=50.0)
    job = ledger.accept(WorkItem(request=request), "ack")
    for gap_s in (9.0, 0.04, 0.06, 0.05, 0.2):
        clock.now += gap_s
        job.output(clock.now)
    assert job.late_gaps == 2
    assert job.longest_gap_s == pytest.approx(0.2)
