"""Every setting of every service: one frozen object, parsed once from `SAGELLM_…` variables."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sagellm_schemas import InstanceRole, SettingsError

MIB = 1 << 20
GIB = 1 << 30


def _state_dir() -> Path:
    return Path("~/.local/state/sagellm").expanduser()


class Settings(BaseSettings):
    """Settings with their defaults. The command line's flags override them, field by field.

    Sizes are bytes, durations seconds, unless the name says otherwise.
    """

    model_config = SettingsConfigDict(
        env_prefix="SAGELLM_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    # Broker
    nats_url: str = Field("nats://127.0.0.1:4222", description="NATS server, or several separated by commas")
    nats_token: SecretStr | None = Field(None, description="token, where the server asks for one")
    nats_user: str | None = Field(None, description="user name, where the server asks for one")
    nats_password: SecretStr | None = Field(None, description="password of that user")
    nats_credentials: Path | None = Field(None, description="path of a .creds file")
    nats_connect_timeout_s: float = Field(10.0, gt=0, description="how long to wait for the first connection")
    state_dir: Path = Field(default_factory=_state_dir, description="where the embedded NATS server stores")
    storage: Literal["file", "memory"] = Field("file", description="storage of the request queue")
    replicas: int = Field(1, ge=1, le=5, description="copies of streams and buckets, in a NATS cluster")
    queue_max_messages: int = Field(200_000, ge=1, description="bound of the durable queue, in requests")
    queue_max_bytes: int = Field(4 * GIB, ge=MIB, description="bound of the durable queue, in bytes")
    max_message_bytes: int = Field(8 * MIB, ge=64 * 1024, description="largest message; the server must allow it")

    # Ingress
    host: str = Field("127.0.0.1", description="address the HTTP ingress listens on")
    port: int = Field(8000, ge=0, le=65535, description="port the HTTP ingress listens on; 0 picks a free one")
    max_body_bytes: int = Field(4 * MIB, ge=1024, description="largest HTTP body")
    max_choices: int = Field(16, ge=1, description="largest n of one HTTP request")
    publish_timeout_s: float = Field(5.0, gt=0, description="how long to wait for the queue's acknowledgement")

    # Scheduler
    policy: str = Field(
        "adaptive",
        description="order of the queue: adaptive, priority, slo_aware, cost_optimized, fair, fifo, edf or sjf",
    )
    ageing_s: float = Field(30.0, gt=0, description="how much longer each step down in priority may wait")
    late_bound_s: float = Field(
        60.0, gt=0, description="slo_aware: a late request that has waited so long gets its turn, in time or not"
    )
    tier_weights: dict[str, float] = Field(
        default_factory=lambda: {"free": 0.5, "standard": 1.0, "premium": 2.0, "enterprise": 4.0},
        description="fair: share of each billing tier; others count as 1",
    )
    routing: str = Field(
        "load_balanced",
        description="choice of the worker: load_balanced, round_robin, random, power_of_two, affinity, locality, "
        "prefix_aware, topology_aware",
    )
    pd_policy: str = Field(
        "adaptive", description="what prefilling instances are used for, if there are any: threshold, adaptive"
    )
    preemption: Literal["critical", "off"] = Field(
        "critical", description="critical: a CRITICAL request may send a running one back into the queue; or off"
    )
    max_attempts: int = Field(3, ge=1, description="attempts before a request becomes a dead letter")
    lease_ttl_s: float = Field(1.0, ge=0.3, description="a leader that is silent for this long is replaced")

    # Admission: what is beyond these bounds is refused with the time after which to try again
    max_queued_per_model: int | None = Field(
        None, ge=1, description="most waiting requests of one model; no bound if not given"
    )
    max_queued_per_user: int | None = Field(
        None, ge=1, description="most waiting requests of one user; no bound if not given"
    )
    model_requests_per_minute: float | None = Field(
        None, gt=0, description="most new requests a minute of one model; no bound if not given"
    )
    model_tokens_per_minute: float | None = Field(
        None, gt=0, description="most tokens a minute, prompts and answers, of one model; no bound if not given"
    )
    user_requests_per_minute: float | None = Field(
        None, gt=0, description="most new requests a minute of one user; no bound if not given"
    )
    user_tokens_per_minute: float | None = Field(
        None, gt=0, description="most tokens a minute, prompts and answers, of one user; no bound if not given"
    )
    tier_bounds: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description='factor on a user\'s bounds by billing tier, as `{"premium": 4}`; others count as 1',
    )

    # Liveness
    heartbeat_interval_s: float = Field(0.25, gt=0, description="how often an instance reports")
    heartbeat_timeout_s: float = Field(2.0, gt=0, description="an instance silent for this long is fenced")

    # Worker
    model: str = Field("smollm2-135m-instruct", description="folder, GGUF file, Hugging Face id or alias")
    served_name: str | None = Field(None, description="the model's name for clients; default from `model`")
    adapters: dict[str, str] = Field(
        default_factory=dict, description='LoRA adapters that requests can choose, as `{"name": "folder"}`'
    )
    engine: Literal["sagellm", "vllm", "mock"] = Field("sagellm", description="which engine the worker runs")
    role: InstanceRole = Field(InstanceRole.GENERAL, description="what the worker does")
    vllm_url: str = Field("http://127.0.0.1:8001", description="base URL of a running vLLM server")
    instance_id: str | None = Field(None, description="name of the worker; a random suffix is always added")
    drain_timeout_s: float = Field(30.0, ge=0, description="how long a stopping worker may finish its requests")
    price_per_hour: float = Field(0.0, ge=0, description="price of the instance, in any one currency")
    machine_id: str = Field("", description="machine the worker is on, for topology-aware routing")
    rack_id: str = Field("", description="rack the worker is in, for topology-aware routing")

    # Engine
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="type of the weights")
    quantization: Literal["int8", "int4"] | None = Field(
        None, description="round the weights of an unquantized model to so many bits on load: int8 or int4"
    )
    device: str = Field("auto", description="auto, cpu or cuda")
    kv_cache_dtype: Literal["auto", "fp8"] = Field("auto", description="fp8 halves the KV cache of a GPU")
    max_model_len: int | None = Field(None, ge=1, description="prompt and output tokens; default: the model's")
    max_num_seqs: int = Field(64, ge=1, description="requests that run at once in one worker")
    max_batched_tokens: int = Field(512, ge=16, description="tokens of one engine step")
    kv_cache_bytes: int | None = Field(None, ge=MIB, description="memory of the KV cache; default: what is free")
    prefix_caching: bool = Field(True, description="reuse the KV blocks of equal prefixes")
    threads: int | None = Field(None, ge=1, description="CPU threads of the engine; default: by the machine")
    speculation: Literal["off", "ngram", "draft"] = Field(
        "off",
        description="guess tokens ahead where it pays: ngram (what the text repeats), draft (a model); or off",
    )
    draft_model: str | None = Field(None, description="the model that guesses, given as `model` is; for draft")
    draft_tokens: int = Field(10, ge=1, le=64, description="tokens guessed ahead at most")

    # Mock engine
    mock_ttft_ms: float = Field(0.0, ge=0, description="time to first token")
    mock_tpot_ms: float = Field(0.0, ge=0, description="time per output token")
    mock_prefill_tokens_per_s: float = Field(
        0.0, ge=0, description="prompt tokens computed a second; 0: any number"
    )
    mock_prefix_blocks: int = Field(0, ge=0, description="capacity of the prefix cache, in blocks of 16 tokens")
    mock_text: str = Field(
        "The quick brown fox jumps over the lazy dog. ", min_length=1, description="what it says"
    )

    # Logs and metrics
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="Prometheus port of scheduler and worker")

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings from the environment, with `overrides` that are not None on top.

        Raises:
            SettingsError: a value is missing, unknown or out of range; the message names the variable.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            problems = "; ".join(
                f"SAGELLM_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()
            )
            raise SettingsError(f"settings cannot be used: {problems}") from None

    def environment(self) -> dict[str, str]:
        """The variables that give a child process these settings, secrets included."""
        values = self.model_dump(mode="json", exclude_unset=True)
        for name in ("nats_token", "nats_password"):
            secret = getattr(self, name)
            if secret is not None:
                values[name] = secret.get_secret_value()
        return {f"SAGELLM_{name.upper()}": _as_text(value) for name, value in values.items() if value is not None}


def _as_text(value: object) -> str:
    if isinstance(value, bool | dict):
        return json.dumps(value)
    return str(value)
