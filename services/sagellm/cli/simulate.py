"""`sagellm simulate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sagellm.simulator.scenario import Scenario

FILE_WIDTH = 140
"""Columns of a table that goes to no terminal."""


def simulate(
    trace: Annotated[
        Path, typer.Option(help="Trace: .csv of Azure, .jsonl of Mooncake or of `sagellm record`; or .gz.")
    ],
    policy: Annotated[str, typer.Option(help="Order of the queue.")] = "fifo",
    routing: Annotated[str, typer.Option(help="Choice of the instance.")] = "load_balanced",
    pd_policy: Annotated[str, typer.Option(help="When to split prefill from decode.")] = "adaptive",
    instances: Annotated[int, typer.Option(help="Number of instances that run whole requests.", min=0)] = 1,
    prefill: Annotated[int, typer.Option(help="Number of prefilling instances.", min=0)] = 0,
    decode: Annotated[int, typer.Option(help="Number of decoding instances.", min=0)] = 0,
    transfer_gb_per_s: Annotated[float, typer.Option(help="Speed of KV transfers, in GB/s.", min=1e-3)] = 10.0,
    cost_model: Annotated[str, typer.Option(help="A built-in cost model, or a JSON file.")] = "h100-llama31-8b",
    rate_scale: Annotated[float, typer.Option(help="How many times as fast requests arrive.", min=1e-6)] = 1.0,
    duration_s: Annotated[
        float | None, typer.Option("--duration-s", help="Use so many first seconds of the trace.", min=1e-3)
    ] = None,
    mix: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME:SHARE[:INPUT[:OUTPUT]][:FIELD=VALUE…] makes a share of the requests another class."
        ),
    ] = None,
    users: Annotated[int, typer.Option(help="Give requests of no mix to so many users.", min=0)] = 0,
    ttft_slo_ms: Annotated[
        float | None, typer.Option("--ttft-slo-ms", help="First token of every request that says nothing else.")
    ] = None,
    tbt_slo_ms: Annotated[
        float | None, typer.Option("--tbt-slo-ms", help="99% of a request's gaps between tokens, likewise.")
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(help="Requests at once in an instance.", min=1, show_default="the cost model's")
    ] = None,
    max_batched_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a step.", min=1, show_default="the cost model's")
    ] = None,
    kv_tokens: Annotated[
        int | None, typer.Option(help="KV cache of an instance.", min=1, show_default="the cost model's")
    ] = None,
    prefix_caching: Annotated[bool, typer.Option(help="Share the KV of equal prefixes.")] = True,
    price: Annotated[
        str, typer.Option(help="Prices per hour, separated by commas, given to the instances in turn.")
    ] = "0",
    seed: Annotated[list[int] | None, typer.Option(help="Seed; may be repeated.", show_default="0")] = None,
    find_goodput: Annotated[
        float | None, typer.Option(help="Search the highest rate with this attainment.", min=0.01, max=1.0)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    png: Annotated[Path | None, typer.Option("--png", help="Write a picture.")] = None,
) -> None:
    """Run a trace through the scheduler's own policy and routing on modelled instances."""
    from rich.console import Console

    from sagellm.simulator.cluster import ClusterPlan
    from sagellm.simulator.cost import load_cost_model
    from sagellm.simulator.scenario import Scenario
    from sagellm.simulator.traces import parse_mix, read_trace

    scenario = Scenario(
        requests=read_trace(trace, duration_s),
        plan=ClusterPlan(
            cost=load_cost_model(cost_model),
            instances=instances,
            prefill=prefill,
            decode=decode,
            transfer_bytes_per_s=transfer_gb_per_s * 1e9,
            max_num_seqs=max_num_seqs,
            max_batched_tokens=max_batched_tokens,
            kv_tokens=kv_tokens,
            prefix_caching=prefix_caching,
            prices_per_hour=_prices(price),
        ),
        policy=policy,
        routing=routing,
        pd_policy=pd_policy,
        mixes=[parse_mix(text) for text in mix or []],
        users=users,
        ttft_slo_ms=ttft_slo_ms,
        tbt_slo_ms=tbt_slo_ms,
    )
    setup = {"trace": trace.name, "mixes": mix or [], "cost_model": cost_model, **_setup(scenario, rate_scale)}
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    seeds = seed or [0]
    if find_goodput is not None:
        _find(scenario, seeds, rate_scale, find_goodput, setup, console, as_json, png)
    else:
        _run(scenario, seeds, rate_scale, setup, console, as_json, png)


def _run(
    scenario: "Scenario",
    seeds: list[int],
    rate_scale: float,
    setup: dict[str, Any],
    console: "Console",
    as_json: bool,
    png: Path | None,
) -> None:
    from sagellm.simulator.plot import write_run_png
    from sagellm.simulator.progress import showing
    from sagellm.simulator.report import run_document, show_run

    with showing(len(seeds)) as progress:
        runs = [scenario.run(seed, rate_scale, progress) for seed in seeds]
    if as_json:
        _print_json(run_document(setup, [result for result, _ in runs]))
    else:
        for result, _ in runs:
            show_run(result, console)
    if png is not None:
        outcomes = [outcome for _, found in runs for outcome in found]
        write_run_png(outcomes, f"{setup['trace']}, {scenario.policy}, {scenario.routing}", png)


def _find(
    scenario: "Scenario",
    seeds: list[int],
    start: float,
    wanted: float,
    setup: dict[str, Any],
    console: "Console",
    as_json: bool,
    png: Path | None,
) -> None:
    from sagellm.simulator.goodput import find_goodput
    from sagellm.simulator.plot import write_goodput_png
    from sagellm.simulator.progress import showing
    from sagellm.simulator.report import goodput_document, show_goodput

    with showing(None) as progress:
        found = [find_goodput(scenario.at_rate(seed, wanted, progress), seed, wanted, start) for seed in seeds]
    if as_json:
        _print_json(goodput_document(setup, wanted, found))
    else:
        show_goodput(wanted, found, console)
    if png is not None:
        title = f"{setup['trace']}, {scenario.policy}, {scenario.routing}"
        write_goodput_png(found, scenario.rate_rps, wanted, title, png)


def _setup(scenario: "Scenario", rate_scale: float) -> dict[str, Any]:
    plan = scenario.plan
    return {
        "policy": scenario.policy,
        "routing": scenario.routing,
        "pd_policy": scenario.pd_policy,
        "instances": plan.instances,
        "prefill": plan.prefill,
        "decode": plan.decode,
        "rate_scale": rate_scale,
        "users": scenario.users,
        "ttft_slo_ms": scenario.ttft_slo_ms,
        "tbt_slo_ms": scenario.tbt_slo_ms,
        "max_num_seqs": plan.seqs,
        "max_batched_tokens": plan.budget,
        "kv_blocks": plan.num_blocks,
        "block_size": plan.block_size,
        "prefix_caching": plan.prefix_caching,
        "prices_per_hour": list(plan.prices_per_hour),
    }


def _prices(text: str) -> tuple[float, ...]:
    from sagellm_schemas import InvalidRequest

    try:
        prices = tuple(float(part) for part in text.split(","))
    except ValueError:
        prices = ()
    if not prices or not all(0 <= price < float("inf") for price in prices):
        raise InvalidRequest(f"--price takes numbers like 2.5,1.2, not {text!r}")
    return prices


def _print_json(document: dict[str, Any]) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=1).decode())
