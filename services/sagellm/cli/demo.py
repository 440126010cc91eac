"""`sagellm demo`: the pipeline, and a short show of several requests at once."""

from typing import TYPE_CHECKING

import typer

from . import options

if TYPE_CHECKING:
    from .up.output import Output
    from .up.pipeline import Pipeline


def demo(
    model: options.Model = None,
    engine: options.Engine = None,
    vllm_url: options.VllmUrl = None,
    workers: options.Workers = 1,
    policy: options.Policy = None,
    nats_url: options.UpNatsUrl = None,
    state_dir: options.StateDir = None,
    max_num_seqs: options.MaxNumSeqs = 2,
    mock_ttft_ms: options.MockTtftMs = None,
    mock_tpot_ms: options.MockTpotMs = None,
    keep: bool = typer.Option(False, "--keep", help="Stay up after the show."),
) -> None:
    """Start everything, show requests of every priority in a live table, and leave.

    A worker runs only two requests at once here, so that you see the queue's order: CRITICAL overtakes.
    """
    from sagellm.settings import Settings

    from .show import show
    from .up.run import run_pipeline

    settings = Settings.load(
        model=model,
        engine=engine,
        vllm_url=vllm_url,
        policy=policy,
        nats_url=nats_url,
        state_dir=state_dir,
        max_num_seqs=max_num_seqs,
        mock_ttft_ms=mock_ttft_ms,
        mock_tpot_ms=mock_tpot_ms,
        port=0,
    )

    async def present(running: "Pipeline", output: "Output") -> None:
        await show(running.url, running.model)

    run_pipeline(settings, present, workers=workers, schedulers=1, stay=keep, quiet=True)
