"""`sagellm ingress`, `sagellm scheduler`, `sagellm worker`: one service each, at a NATS server that runs."""

from typing import TYPE_CHECKING

import typer

from . import options

if TYPE_CHECKING:
    import asyncio

    from sagellm.settings import Settings


def ingress(
    nats_url: options.NatsUrl = None,
    host: options.Host = None,
    port: options.Port = None,
    log_level: options.LogLevel = None,
) -> None:
    """Run the HTTP ingress: OpenAI's API on one side, NATS on the other. Prints its URL once it listens."""
    from sagellm.ingress.main import run
    from sagellm.settings import Settings

    from .serve import serve

    async def service(settings: "Settings", stop: "asyncio.Event") -> None:
        await run(settings, stop, on_ready=typer.echo)

    serve("ingress", service, Settings.load(nats_url=nats_url, host=host, port=port, log_level=log_level))


def scheduler(
    nats_url: options.NatsUrl = None,
    policy: options.Policy = None,
    routing: options.Routing = None,
    pd_policy: options.PdPolicy = None,
    metrics_port: options.MetricsPort = None,
    log_level: options.LogLevel = None,
) -> None:
    """Run a scheduler. Of several, one leads and the others take over when it dies."""
    from sagellm.scheduler.main import run
    from sagellm.settings import Settings

    from .serve import serve

    settings = Settings.load(
        nats_url=nats_url,
        policy=policy,
        routing=routing,
        pd_policy=pd_policy,
        metrics_port=metrics_port,
        log_level=log_level,
    )
    serve("scheduler", run, settings)


def worker(
    nats_url: options.NatsUrl = None,
    model: options.Model = None,
    served_name: options.ServedName = None,
    adapter: options.Adapter = None,
    engine: options.Engine = None,
    vllm_url: options.VllmUrl = None,
    role: options.Role = None,
    instance_id: options.InstanceId = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantization: options.Quantization = None,
    threads: options.Threads = None,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = None,
    max_batched_tokens: options.MaxBatchedTokens = None,
    kv_cache_bytes: options.KvCacheBytes = None,
    speculation: options.Speculation = None,
    draft_model: options.DraftModel = None,
    draft_tokens: options.DraftTokens = None,
    mock_ttft_ms: options.MockTtftMs = None,
    mock_tpot_ms: options.MockTpotMs = None,
    mock_text: options.MockText = None,
    metrics_port: options.MetricsPort = None,
    log_level: options.LogLevel = None,
) -> None:
    """Run a worker: one model on one engine. Start as many as you like."""
    given = dict(locals()) | {"adapters": options.adapters(adapter)}
    del given["adapter"]
    from functools import partial

    from sagellm.settings import Settings
    from sagellm.worker.main import run

    from .loading import LoadingShown
    from .openmp import spin_briefly
    from .serve import serve

    spin_briefly()
    settings = Settings.load(**given)
    serve("worker", partial(run, progress=LoadingShown(settings.served_name or settings.model)), settings)
