"""From an `ExecutionInstance` to the settings of the worker that runs it."""

from sagellm.settings import Settings
from sagellm.worker.engines.mock_model import MOCK
from sagellm_schemas import InstanceRole, InvalidRequest, RequestType, UnsupportedParameter

from .instance import ExecutionInstance
from .vocabulary import ExecutionInstanceType

ENGINES = ("vllm", "sagellm", "mock")
FROM_METADATA = (
    "device",
    "dtype",
    "kv_cache_bytes",
    "max_batched_tokens",
    "max_model_len",
    "mock_text",
    "mock_tpot_ms",
    "mock_ttft_ms",
    "prefix_caching",
    "threads",
)
"""Settings of the engine that `metadata` may hold. Its other entries are the user's own."""


def worker_settings(instance: ExecutionInstance, base: Settings) -> Settings:
    """`base` with what `instance` says.

    Raises:
        InvalidRequest: a field is out of range.
        UnsupportedParameter: it is of a kind that no engine here is.
        SettingsError: an engine's setting in `metadata` cannot be used.
    """
    engine = instance.metadata.get("engine", "vllm")
    _check(instance, engine)
    model = instance.metadata.get("model", MOCK if engine == "mock" else instance.model_name)
    given = {name: getattr(base, name) for name in base.model_fields_set}
    given |= {name: instance.metadata[name] for name in FROM_METADATA if name in instance.metadata}
    host = f"[{instance.host}]" if ":" in instance.host else instance.host
    return Settings.load(
        **given
        | {
            "engine": engine,
            "model": model,
            "served_name": instance.model_name,
            "instance_id": instance.instance_id,
            "role": InstanceRole(instance.instance_type.value),
            "vllm_url": f"http://{host}:{instance.port}",
            "max_num_seqs": instance.max_concurrent_requests,
            "machine_id": instance.machine_id or "",
            "rack_id": instance.rack_id or "",
            "price_per_hour": instance.price_per_hour,
            "drain_timeout_s": 0.0,  # the manager waits itself
            "metrics_port": None,
        }
    )


def _check(instance: ExecutionInstance, engine: object) -> None:
    if not instance.instance_id or not instance.model_name:
        raise InvalidRequest("an instance needs an instance_id and a model_name", param="instance_id")
    if engine not in ENGINES:
        raise InvalidRequest(
            f"metadata['engine'] must be one of {', '.join(ENGINES)}; got {engine!r}", param="engine"
        )
    if engine == "vllm" and not 0 < instance.port < 65536:
        raise InvalidRequest(f"port must be between 1 and 65535; got {instance.port}", param="port")
    if instance.max_concurrent_requests < 1:
        raise InvalidRequest(
            f"max_concurrent_requests must be at least 1; got {instance.max_concurrent_requests}",
            param="max_concurrent_requests",
        )
    embedding = (ExecutionInstanceType.EMBEDDING, ExecutionInstanceType.LLM_EMBEDDING)
    if instance.instance_type in embedding or RequestType.EMBEDDING in (instance.supported_request_types or ()):
        raise UnsupportedParameter(
            "embedding instances are not supported: no engine makes embeddings yet", param="instance_type"
        )
