"""What operators ask the leading scheduler, and its answers: the queue, requests, instances, and the policy.

Times are Unix seconds by the leader's clock, `…_s` are durations. A question that cannot be answered is refused.
"""

import msgspec
from msgspec import UNSET, UnsetType

from .enums import EngineState, InstanceRole, RequestStatus
from .errors import ErrorBody


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question or order that is wrong, or cannot be followed now."""

    error: ErrorBody


class QueueQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which requests wait, in the order in which they would be served? Answered with a `QueuePage`.

    Filters are of one value each; `limit` at most 1000.
    """

    model: str = ""
    user_id: str | None = None
    priority: int | str | None = None
    limit: int = 100
    offset: int = 0


class RequestsQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which requests have not ended? Answered with a `RequestsPage`, in order of arrival; see `QueueQuery`."""

    status: RequestStatus | None = None
    model: str = ""
    user_id: str | None = None
    priority: int | str | None = None
    instance: str = ""
    limit: int = 100
    offset: int = 0


class RequestQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one request that has not ended. Answered with a `RequestView`."""

    id: str


class InstancesQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which instances are there? Answered with an `InstancesPage`. `id` asks for one, which must be there."""

    model: str = ""
    id: str = ""


class PolicyQuery(msgspec.Struct, frozen=True, kw_only=True):
    """By which policy and routing are requests served? Answered with a `PolicyView`."""


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """One request that has not ended.

    `position` (1 goes next in its model's queue), what is predicted, and the `reason` why it does not run yet are
    told of waiting requests. `position` is None where it was not looked for, or is too far back. `changed` says
    that an operator has changed it.
    """

    id: str
    model: str
    status: RequestStatus
    user_id: str
    priority: int
    arrived_at: float
    waited_s: float
    """From arrival to now, or to the latest dispatch."""
    prompt_tokens: int
    ttft_slo_ms: float | None = None
    slo_deadline_ms: float | None = None
    tbt_slo_ms: float | None = None
    cost_budget: float | None = None
    changed: bool = False

    position: int | None = None
    predicted_start_at: float | None = None
    predicted_first_token_at: float | None = None
    predicted_finish_at: float | None = None
    reason: str = ""

    instance: str = ""
    """Where it runs, or ran last."""
    attempt: int = 0
    failures: int = 0
    last_error: str = ""
    dispatched_at: float | None = None
    output_tokens: int | None = None
    """What its reader holds; None where it was not asked, or does not tell."""
    adapter: str | UnsetType = UNSET
    """The LoRA adapter it asks for, if it does."""


class ModelQueue(msgspec.Struct, frozen=True, kw_only=True):
    """How one model's requests stand.

    `expected_wait_s` is what a request would wait that came behind all others now; None: no instance takes work.
    `obstacle` says what holds up every waiting request alike, if anything does.
    """

    model: str
    waiting: int
    running: int
    credits: int
    """Requests that its open instances run at once."""
    instances: int
    expected_wait_s: float | None = None
    obstacle: str = ""


class QueuePage(msgspec.Struct, frozen=True, kw_only=True):
    """Part of the queue: model by model, each in the order of service.

    `total` counts all that match; None where the end was not looked for: then `more` says that there are others.
    """

    taken_at: float
    policy: str
    requests: list[RequestView]
    models: list[ModelQueue]
    total: int | None
    more: bool


class RequestsPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the `total` requests that match."""

    taken_at: float
    requests: list[RequestView]
    total: int


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One instance. `takes_work` says whether it is sent requests now; if not, `reason` says why.

    `closed` is an operator's order to send it no more, with its reason. `server` is the id of the registered
    server that is served there. `output_tokens_total` counts since its engine's start.
    """

    id: str
    model: str
    role: InstanceRole
    engine: str
    host: str
    state: EngineState
    takes_work: bool
    reason: str
    closed: str
    running: int
    max_concurrent_requests: int
    load: float
    heard_s: float
    """Since its latest heartbeat."""
    step_ms: float
    kv_used: float
    """Share of the KV cache in use; 0 where the engine does not tell."""
    output_tokens_total: int
    price_per_hour: float
    started_at: float
    server: str = ""
    adapters: list[str] | UnsetType = UNSET
    """Its LoRA adapters, if it has any."""


class Registration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A running OpenAI or vLLM server that some worker process is to serve, as a worker with engine vllm would.

    As an order, `id` may be left out: it is made from the URL. `model` is the server's model of that name, or else
    its first one under that name. What else is left out is as the settings of the worker process say.
    """

    url: str
    id: str = ""
    model: str = ""
    max_concurrent_requests: int | None = None
    max_model_len: int | None = None
    price_per_hour: float | None = None


class InstancesPage(msgspec.Struct, frozen=True, kw_only=True):
    """The instances, and the servers that somebody registered, running or not."""

    taken_at: float
    instances: list[InstanceView]
    servers: list[Registration]


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """What is in use. `active` is the policy that adaptive has chosen, else `policy` itself, and `reason` why.

    `policy_setting` and `routing_setting` are what the leader's settings say, which holds unless an operator has
    switched (`switched_at`).
    """

    policy: str
    active: str
    reason: str
    routing: str
    policy_setting: str
    routing_setting: str
    switched_at: float | None
    policies: list[str]
    """Names that can be switched to."""
    routings: list[str]
    term: int
    """How often the lead has changed."""
