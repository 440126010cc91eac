"""`sagellm plan`."""

from typing import Annotated

import typer


def plan(
    model: Annotated[
        str, typer.Option(help="Folder with a config.json, a config.json, a Hugging Face id, or a size: 8B, 8x7B.")
    ],
    gpus: Annotated[int, typer.Option(help="How many GPUs there are.", min=1, max=1024)] = 1,
    gpu: Annotated[str, typer.Option(help="Kind of GPU: h100, h200, a100, l40s, or a JSON file.")] = "h100",
    gpu_memory_gib: Annotated[
        float | None, typer.Option(help="Memory of one GPU; that of its kind if not given.")
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(help="GPUs of one machine, linked by NVLink or PCIe.", show_default="8", min=1)
    ] = None,
    expected_input: Annotated[int, typer.Option(help="Mean prompt, in tokens.")] = 1024,
    expected_output: Annotated[int, typer.Option(help="Mean answer, in tokens.")] = 256,
    rate: Annotated[float, typer.Option(help="Requests per second that must be carried; 0: no demand.")] = 0.0,
    concurrency: Annotated[int, typer.Option(help="Requests that must run at once.")] = 1,
    context: Annotated[
        int | None,
        typer.Option(help="Longest request that must fit, prompt and answer; at most 8192 if not given."),
    ] = None,
    ttft_slo_ms: Annotated[float | None, typer.Option(help="Goal for the mean time to the first token.")] = None,
    tbt_slo_ms: Annotated[float | None, typer.Option(help="Goal for the mean time between tokens.")] = None,
    dtype: Annotated[
        str, typer.Option(help="Weights: auto (as the checkpoint), float32, bfloat16, float16, fp8, int8 or int4.")
    ] = "auto",
    kv_dtype: Annotated[str, typer.Option(help="KV cache: bfloat16 or fp8.")] = "bfloat16",
    max_num_seqs: Annotated[int, typer.Option(help="Most requests at once in one replica.")] = 256,
    max_batched_tokens: Annotated[int, typer.Option(help="Tokens of one engine step.")] = 8192,
    objective: Annotated[
        str, typer.Option(help="auto (the usual split for the size), latency or throughput.")
    ] = "auto",
    show_all: Annotated[bool, typer.Option("--all", help="Show every candidate, not only the best.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose how to split a model over GPUs: tensor, pipeline, data or expert parallelism, or a hybrid.

    Predicts memory, latency and capacity of every layout, says why each is or is not chosen, and prints the flags.
    Nothing is started, and no GPU is needed.
    """
    from sagellm.planner.order import Order
    from sagellm.planner.report import print_json, print_tables

    order = Order(
        model=model,
        gpus=gpus,
        gpu=gpu,
        gpu_memory_gib=gpu_memory_gib,
        gpus_per_node=gpus_per_node,
        input_tokens=expected_input,
        output_tokens=expected_output,
        rate_per_s=rate,
        concurrency=concurrency,
        context_tokens=context,
        ttft_slo_ms=ttft_slo_ms,
        tpot_slo_ms=tbt_slo_ms,
        dtype=dtype,
        kv_dtype=kv_dtype,
        max_seqs=max_num_seqs,
        step_tokens=max_batched_tokens,
        objective=objective,
    )
    plan = order.plan()
    if as_json:
        print_json(plan)
    else:
        print_tables(plan, show_all=show_all)
