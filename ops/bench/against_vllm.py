"""The pipeline against a vLLM server on the same weights, through HTTP, in turn.

    python ops/bench/against_vllm.py --vllm /path/to/vllm/bin/python \\
        --json docs/benchmarks/against-vllm.json --png docs/benchmarks/against-vllm.png

Both are started and stay up; while one is measured the other has nothing to do. Unless the model is a folder of
safetensors, it is written as one first, so that both load the same file. Measured are the time to first token of
single prompts, and output tokens/s at each number of streams. The JSON holds what there is after every turn.
"""

import argparse
import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from servers import sagellm_up, vllm_server

from sagellm.cli.bench.environment import environment
from sagellm.cli.bench.hf_folder import write_hf_folder
from sagellm.cli.bench.measure import Plan, Result, measure
from sagellm.cli.bench.plot import write_png
from sagellm.cli.bench.report import part, show, table_console, write_json
from sagellm.cli.bench.targets import Target, find_server
from sagellm_engine.loader import open_checkpoint, resolve

DTYPE = "bfloat16"
TIMEOUT_S = 600.0


def main() -> None:
    arguments = _arguments()
    console = table_console()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = _folder(arguments.model, scratch)
        console.print("starting vLLM, which takes minutes …")
        theirs = stack.enter_context(vllm_server(arguments.vllm, folder, DTYPE, scratch / "vllm.log"))
        variables = {"SAGELLM_DTYPE": DTYPE}
        ready = stack.enter_context(sagellm_up(str(folder), scratch / "state", arguments.up, variables))
        results = asyncio.run(_measure({"sagellm": ready["url"], "vllm": theirs}, _plans(arguments), arguments))
    for name, found in results.items():
        console.print(name, style="bold")
        show(found, console)
    if arguments.png is not None:
        title = f"{arguments.input_tokens} tokens in, {arguments.output_tokens} out, through HTTP; medians of "
        write_png(results["streams"], f"{title}{arguments.repeat} runs", arguments.png)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="Python interpreter of an environment with vLLM")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="alias, GGUF file or folder")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 64], help="numbers of streams")
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument(
        "--ttft-tokens", type=int, nargs="+", default=[128, 1024], help="lengths of single prompts"
    )
    parser.add_argument("--ttft-requests", type=int, default=5, help="prompts of each TTFT run")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each; medians are shown")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--png", type=Path, help="where to draw the streams")
    parser.add_argument("--up", nargs=argparse.REMAINDER, default=[], help="more arguments for `sagellm up`")
    return parser.parse_args()


def _folder(model: str, scratch: Path) -> Path:
    path = resolve(model).path
    if path.is_dir():
        return path
    folder = scratch / path.stem
    write_hf_folder(open_checkpoint(model), folder, DTYPE)
    return folder


def _plans(arguments: argparse.Namespace) -> dict[str, Plan]:
    """What is measured, by name. Seeds lie far apart: no prompt may come twice, since both cache prefixes."""
    singles = {
        f"ttft_{tokens}": Plan(
            concurrency=[1],
            requests=arguments.ttft_requests,
            input_tokens=tokens,
            output_tokens=2,
            repeat=arguments.repeat,
            dataset="random",
            vocab_size=32_000,
            seed=10_000_000 * number,
        )
        for number, tokens in enumerate(arguments.ttft_tokens, start=1)
    }
    streams = Plan(
        concurrency=arguments.concurrency,
        input_tokens=arguments.input_tokens,
        output_tokens=arguments.output_tokens,
        repeat=arguments.repeat,
        dataset="random",
        vocab_size=32_000,
        seed=0,
    )
    return {**singles, "streams": streams}


async def _measure(
    urls: dict[str, str], plans: dict[str, Plan], arguments: argparse.Namespace
) -> dict[str, list[Result]]:
    console = Console(stderr=True, highlight=False)
    targets: list[Target] = [await find_server(label, url, None, TIMEOUT_S) for label, url in urls.items()]
    whole: dict[str, Any] = {"kind": "against_vllm", "environment": environment(), "parts": {}}
    results = {}
    for name, plan in plans.items():

        def keep(found: list[Result], name: str = name, plan: Plan = plan) -> None:
            whole["parts"][name] = part(targets, plan, [result.without_samples() for result in found])
            if arguments.json is not None:
                write_json(whole, str(arguments.json))

        console.print(name)
        results[name] = await measure(targets, plan, lambda text: console.print(text, style="dim"), keep)
    return results


if __name__ == "__main__":
    main()
