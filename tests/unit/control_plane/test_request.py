"""From the original's request to the wire's."""

import pytest

from sagellm.control_plane.request import RequestMetadata, to_wire
from sagellm.control_plane.vocabulary import ParallelismType
from sagellm_schemas import InferenceRequest, RequestPriority, RequestType


def wire(**fields: object) -> InferenceRequest:
    return to_wire(RequestMetadata(**fields), "model", "replies.here", None)


def test_every_field_arrives() -> None:
    sent = wire(
        request_id="r-1",
        prompt="Hello",
        user_id="user",
        priority=RequestPriority.CRITICAL,
        slo_deadline_ms=1000,
        tbt_slo_ms=50,
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        cost_budget=0.01,
        billing_tier="premium",
        can_be_preempted=False,
        tags={"a": 1},
        arrival_time=12.0,
    )
    assert (sent.id, sent.model, sent.reply_to, sent.user_id) == ("r-1", "model", "replies.here", "user")
    assert (sent.priority, sent.slo_deadline_ms, sent.tbt_slo_ms, sent.cost_budget) == (0, 1000, 50, 0.01)
    assert (sent.sampling.max_tokens, sent.sampling.temperature, sent.sampling.top_p) == (7, 0.5, 0.9)
    assert (sent.billing_tier, sent.can_be_preempted, sent.tags, sent.arrival_time) == (
        "premium",
        False,
        {"a": "1"},
        12,
    )
    assert sent.sampling.seed is not None


def test_a_chat_prompt_is_a_turn_and_a_generate_prompt_is_text() -> None:
    chat, generate = wire(prompt="Hi"), wire(prompt="Hi", request_type=RequestType.LLM_GENERATE)
    assert [message.content for message in chat.messages or []] == ["Hi"]
    assert (chat.prompt, generate.prompt, generate.messages) == (None, "Hi", None)


def test_ids_and_arrivals_are_filled_in() -> None:
    request = RequestMetadata(prompt="Hi")
    sent = to_wire(request, "model", "", None)
    assert sent.id == request.request_id
    assert sent.id != wire(prompt="Hi").id
    assert sent.arrival_time == request.arrival_time


def test_a_hint_that_has_no_effect_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    wire(prompt="Hi", parallelism_hint=ParallelismType.HYBRID)
    assert "parallelism_hint has no effect" in caplog.text
