"""One full and one minimal example of every message of the wire."""

import msgspec

from sagellm_schemas import (
    Cancel,
    Cancelled,
    ChatMessage,
    Control,
    DeadLetter,
    Ended,
    EngineState,
    EngineStats,
    ErrorBody,
    Failed,
    Finished,
    FinishReason,
    Frame,
    Held,
    HeldQuery,
    HeldReply,
    InferenceRequest,
    InstanceInfo,
    InstanceReport,
    InstanceRole,
    InstanceStats,
    Lease,
    ModelCard,
    Outcome,
    PositionLogprobs,
    RequestType,
    SamplingParams,
    TokenLogprob,
    Tokens,
    Usage,
    WorkItem,
    WorkReport,
)

_ERROR = ErrorBody(code="queue_full", message="the queue is full", param="model", retry_after_s=1.5)
_USAGE = Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=8)
_SAMPLING = SamplingParams(
    max_tokens=64,
    min_tokens=1,
    temperature=0.5,
    top_p=0.75,
    top_k=40,
    min_p=0.125,
    presence_penalty=0.5,
    frequency_penalty=-0.5,
    repetition_penalty=1.25,
    seed=-(1 << 63),
    stop=["\n", "ünd"],
    stop_token_ids=[2],
    ignore_eos=True,
    logprobs=2,
)
_REQUEST = InferenceRequest(
    model="an/example.model",
    id="request_1-a",
    messages=[
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content=[{"type": "text", "text": "Grüße 🙂"}], name="ann"),
        ChatMessage(role="assistant", tool_calls=[{"id": "call", "type": "function"}]),
        ChatMessage(role="tool", content="42", tool_call_id="call"),
    ],
    sampling=_SAMPLING,
    stream=False,
    reply_to="sagellm.v1.replies.reader",
    priority="CRITICAL",
    slo_deadline_ms=1000.0,
    ttft_slo_ms=100.0,
    tbt_slo_ms=20.0,
    cost_budget=0.25,
    user_id="ann",
    billing_tier="gold",
    tags={"team": "a"},
    can_be_preempted=False,
    preferred_instance_id="worker-1",
    request_type=RequestType.LLM_GENERATE,
    arrival_time=1_700_000_000.5,
)
_LOGPROB = TokenLogprob(token_id=5, token="a", logprob=-0.5, bytes=[97])
_INFO = InstanceInfo(
    instance_id="worker-1",
    model="an/example.model",
    role=InstanceRole.DECODING,
    engine="vllm",
    host="node-7",
    max_concurrent_requests=64,
    max_model_len=2048,
    machine_id="m",
    rack_id="r",
    price_per_hour=1.5,
    started_at=1_700_000_000.25,
)
_STATS = EngineStats(
    running=3,
    waiting=1,
    kv_blocks=100,
    kv_blocks_free=40,
    steps_total=1000,
    step_ms=12.5,
    prompt_tokens_total=5000,
    cached_tokens_total=2000,
    output_tokens_total=4000,
    preemptions_total=1,
)
_HEARTBEAT = InstanceStats(
    info=_INFO,
    state=EngineState.DRAINING,
    running={"a": 1, "b": 4},
    stats=_STATS,
    sent_at=1_700_000_001.0,
    term=7,
)
_ENDED = Ended(id="a", attempt=2, outcome=Outcome.RETURNED, usage=_USAGE, error=_ERROR)

MESSAGES: dict[str, msgspec.Struct] = {
    "request": _REQUEST,
    "request_minimal": InferenceRequest(model="m", prompt="hi"),
    "request_token_ids": InferenceRequest(model="m", prompt_token_ids=[1, 2, 70_000], priority=4),
    "work_item": WorkItem(
        request=_REQUEST, attempt=3, term=2, resume_token_ids=[9, 8], reply_format="application/json"
    ),
    "work_item_minimal": WorkItem(request=InferenceRequest(model="m", prompt="hi")),
    "work_report": WorkReport(instance="worker-1", ended=[_ENDED]),
    "work_report_minimal": WorkReport(
        instance="worker-1", ended=[Ended(id="a", attempt=1, outcome=Outcome.FINISHED)]
    ),
    "frame": Frame(
        events=[
            Tokens(
                id="a",
                attempt=2,
                offset=4,
                token_ids=[5, 6],
                text="a b",
                logprobs=[PositionLogprobs(chosen=_LOGPROB, top=[_LOGPROB])],
            ),
            Finished(
                id="a", attempt=2, finish_reason=FinishReason.LENGTH, stop_reason="\n", usage=_USAGE
            ),
            Finished(id="b", stop_reason=2),
            Failed(id="c", attempt=3, error=_ERROR),
            Cancelled(id="d", attempt=4),
        ],
        instance="worker-1",
    ),
    "frame_minimal": Frame(events=[Tokens(id="a"), Failed(id="b", error=ErrorBody(code="x", message="y"))]),
    "held_query": HeldQuery(attempts={"a": 2}),
    "held_reply": HeldReply(held={"a": Held(token_ids=[1, 2]), "b": Held()}),
    "cancel": Cancel(ids=["a", "b"]),
    "control": Control(term=3, drain=True, preempt=["a"]),
    "control_minimal": Control(),
    "instance_info": _INFO,
    "instance_info_minimal": InstanceInfo(instance_id="worker-1", model="m"),
    "instance_stats": _HEARTBEAT,
    "instance_report": InstanceReport(heartbeat=_HEARTBEAT, ended=[_ENDED]),
    "model_card": ModelCard(
        name="an/example.model",
        max_model_len=2048,
        tokenizer="an_example_model-0123456789abcdef",
        chat_template="{{ messages }}",
        bos_token="<s>",
        eos_token="</s>",
        eos_token_ids=[2],
        vocab_size=32_000,
        created=1_700_000_000,
        owned_by="vllm",
    ),
    "model_card_minimal": ModelCard(name="m", max_model_len=16),
    "lease": Lease(holder="scheduler-1", term=5),
    "dead_letter": DeadLetter(
        id="a",
        model="m",
        errors=[_ERROR],
        failed_at=1_700_000_000.0,
        request=InferenceRequest(model="m", prompt="hi"),
        raw=b"\x00\xff",
    ),
    "dead_letter_minimal": DeadLetter(id="a", model="m", errors=[], failed_at=0.5),
}
"""The name of an example is the name of its two files in `tests/golden/`."""

