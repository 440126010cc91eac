"""NATS names made from names that users choose."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_schemas import subjects


@given(st.text())
def test_any_name_becomes_one_token(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]+", subjects.token(name))


@given(st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True))
def test_a_name_that_is_a_token_stays_as_it_is(name: str) -> None:
    assert subjects.token(name) == name


@pytest.mark.parametrize(
    ("name", "token"), [("org/Model-1.5", "org_Model-1_5"), ("a b*>", "a_b__"), ("é", "_"), ("", "_")]
)
def test_other_characters_become_underscores(name: str, token: str) -> None:
    assert subjects.token(name) == token


def test_subjects_of_v1_never_change() -> None:
    assert subjects.requests("a/b") == "sagellm.v1.requests.a_b"
    assert subjects.infer("m") == "sagellm.v1.infer.m"
    assert subjects.work("general", "w-1") == "sagellm.v1.work.general.w-1"
    assert subjects.replies("o") == "sagellm.v1.replies.o"
    assert subjects.held("o") == "sagellm.v1.held.o"
    assert subjects.control("w") == "sagellm.v1.control.w"
    assert subjects.stats("w") == "sagellm.v1.stats.w"
    assert subjects.reports("w") == "sagellm.v1.reports.w"
    assert subjects.results("id") == "sagellm.v1.results.id"
    assert subjects.deadletter("m") == "sagellm.v1.deadletter.m"
    assert subjects.CANCEL == "sagellm.v1.cancel"
    assert subjects.METRICS == "sagellm.v1.manage.metrics"
    assert subjects.MANAGE_QUEUE == "sagellm.v1.manage.queue"
    assert subjects.MANAGE_REQUESTS == "sagellm.v1.manage.requests"
    assert subjects.MANAGE_REQUEST == "sagellm.v1.manage.request"
    assert subjects.MANAGE_CHANGE == "sagellm.v1.manage.change"
    assert subjects.MANAGE_CANCEL == "sagellm.v1.manage.cancel"
    assert subjects.MANAGE_INSTANCES == "sagellm.v1.manage.instances"
    assert subjects.MANAGE_INSTANCE == "sagellm.v1.manage.instance"
    assert subjects.MANAGE_REGISTER == "sagellm.v1.manage.register"
    assert subjects.MANAGE_POLICY == "sagellm.v1.manage.policy"
    assert subjects.MANAGE_SWITCH == "sagellm.v1.manage.switch"


@given(st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True))
def test_the_owner_of_a_replies_subject_is_found_again(owner: str) -> None:
    assert subjects.owner_of(subjects.replies(owner)) == owner


@pytest.mark.parametrize("reply_to", ["", "_INBOX.abc", "sagellm.v1.held.x", "x.sagellm.v1.replies.x"])
def test_a_subject_of_the_clients_own_has_no_owner(reply_to: str) -> None:
    assert subjects.owner_of(reply_to) is None
