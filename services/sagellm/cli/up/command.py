"""`sagellm up`."""

from typing import TYPE_CHECKING, Annotated

import typer

from sagellm.cli import options

if TYPE_CHECKING:
    from .output import Output
    from .pipeline import Pipeline


def up(
    model: options.Model = None,
    engine: options.Engine = None,
    vllm_url: options.VllmUrl = None,
    served_name: options.ServedName = None,
    adapter: options.Adapter = None,
    quantization: options.Quantization = None,
    speculation: options.Speculation = None,
    draft_model: options.DraftModel = None,
    draft_tokens: options.DraftTokens = None,
    workers: options.Workers = 1,
    schedulers: options.Schedulers = 1,
    policy: options.Policy = None,
    routing: options.Routing = None,
    host: options.Host = None,
    port: options.Port = None,
    nats_url: options.UpNatsUrl = None,
    state_dir: options.StateDir = None,
    mock_ttft_ms: options.MockTtftMs = None,
    mock_tpot_ms: options.MockTpotMs = None,
    mock_text: options.MockText = None,
    ask: Annotated[bool, typer.Option(help="Ask a first question when it is ready.")] = True,
    json_ready: Annotated[
        bool, typer.Option("--json-ready", help="When ready, print one JSON line: URL, model, process ids.")
    ] = False,
    log_level: options.LogLevel = None,
) -> None:
    """Start everything: NATS, ingress, scheduler and workers. Ctrl-C drains, a second one forces."""
    from sagellm.settings import Settings

    from .greeting import greet
    from .run import run_pipeline

    settings = Settings.load(
        model=model,
        engine=engine,
        vllm_url=vllm_url,
        served_name=served_name,
        adapters=options.adapters(adapter),
        quantization=quantization,
        speculation=speculation,
        draft_model=draft_model,
        draft_tokens=draft_tokens,
        policy=policy,
        routing=routing,
        host=host,
        port=port,
        nats_url=nats_url,
        state_dir=state_dir,
        mock_ttft_ms=mock_ttft_ms,
        mock_tpot_ms=mock_tpot_ms,
        mock_text=mock_text,
        log_level=log_level,
    )

    async def show(running: "Pipeline", output: "Output") -> None:
        await greet(running, output, ask=ask, json_ready=json_ready)

    run_pipeline(settings, show, workers=workers, schedulers=schedulers, stay=True)
