"""The codes of the error tree, which clients rely on."""

import pytest

from sagellm_schemas import ErrorBody, SageError, from_body
from sagellm_schemas.errors import error_types

CODES = {
    "internal_error": (500, False),
    "invalid_request": (400, False),
    "context_length_exceeded": (400, False),
    "unsupported_parameter": (400, False),
    "budget_exceeded": (402, False),
    "message_too_large": (413, False),
    "not_found": (404, False),
    "model_not_found": (404, False),
    "queue_full": (429, False),
    "rate_limit_exceeded": (429, False),
    "unavailable": (503, True),
    "broker_unavailable": (503, True),
    "deadline_exceeded": (504, False),
    "attempts_exhausted": (500, False),
    "engine_error": (500, True),
    "model_load_error": (500, False),
    "out_of_memory": (500, False),
    "invalid_settings": (500, False),
}


def test_the_codes_their_statuses_and_what_may_be_retried_never_change() -> None:
    assert {code: (kind.http_status, kind.retryable) for code, kind in error_types().items()} == CODES


@pytest.mark.parametrize("code", CODES)
def test_an_error_crosses_the_wire_whole(code: str) -> None:
    sent = error_types()[code]("went wrong", param="model", retry_after_s=2.0)
    received = from_body(sent.body())
    assert type(received) is type(sent)
    assert (received.message, received.param, received.retry_after_s) == ("went wrong", "model", 2.0)


def test_a_code_from_the_future_is_a_plain_error() -> None:
    assert type(from_body(ErrorBody(code="new", message="?"))) is SageError
