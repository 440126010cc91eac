"""What the prefix cache saves: time to first token of a long prompt, and of another that begins with its tokens.

    python ops/bench/prefix_cache.py --json docs/benchmarks/prefix-cache.json

Starts `sagellm up`. Each turn has a shared prefix of its own; its first request computes the prefix, the second
finds it. Both end in tokens of their own. One request at a time, through HTTP.
"""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from servers import sagellm_up

from sagellm.cli.bench.environment import environment
from sagellm.cli.bench.prompts import Prompts
from sagellm.cli.bench.report import write_json
from sagellm.cli.bench.targets import Server, Shape, find_server

VOCAB_SIZE = 32_000
ONE = Shape(requests=1, concurrency=1, output_tokens=2)


class SharedPrefix(Prompts):
    """Prompts that all begin with the same random tokens."""

    def __init__(self, prefix_tokens: int, suffix_tokens: int, seed: int) -> None:
        super().__init__("random", input_tokens=suffix_tokens, vocab_size=VOCAB_SIZE, seed=seed)
        prefix = Prompts("random", input_tokens=prefix_tokens, vocab_size=VOCAB_SIZE, seed=seed + 1)
        self._prefix = prefix.token_ids()

    def token_ids(self) -> list[int]:
        return self._prefix + super().token_ids()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="alias, GGUF file or folder")
    parser.add_argument("--prefix-tokens", type=int, default=1000, help="tokens that both requests begin with")
    parser.add_argument("--suffix-tokens", type=int, default=16, help="tokens that each has to itself")
    parser.add_argument("--repeat", type=int, default=9, help="turns; medians are shown")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--up", nargs=argparse.REMAINDER, default=[], help="more arguments for `sagellm up`")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as state,
        sagellm_up(arguments.model, Path(state), arguments.up) as ready,
    ):
        turns = asyncio.run(_measure(ready["url"], arguments))
    first_ms, second_ms = (statistics.median(times) for times in zip(*turns, strict=True))
    report: dict[str, object] = {
        "kind": "prefix_cache",
        "environment": environment(),
        "model": arguments.model,
        "prefix_tokens": arguments.prefix_tokens,
        "suffix_tokens": arguments.suffix_tokens,
        "first_ttft_ms": [first for first, _ in turns],
        "second_ttft_ms": [second for _, second in turns],
        "ratio": first_ms / second_ms,
    }
    if arguments.json is not None:
        write_json(report, str(arguments.json))
    table = Table(title=f"{arguments.prefix_tokens} shared tokens, {arguments.suffix_tokens} more; medians")
    for column in ("request", "TTFT", "least to greatest"):
        table.add_column(column)
    for name, times in zip(("first", "second"), zip(*turns, strict=True), strict=True):
        table.add_row(name, f"{statistics.median(times):.1f} ms", f"{min(times):.1f} to {max(times):.1f} ms")
    Console().print(table)
    print(f"the second is {first_ms / second_ms:.1f} times shorter")


async def _measure(url: str, arguments: argparse.Namespace) -> list[tuple[float, float]]:
    """TTFT of each turn's first and second request, in ms. The first turn warms up and is not counted."""
    server = await find_server("sagellm", url, None, timeout_s=300)
    turns = []
    for turn in range(arguments.repeat + 1):
        prompts = SharedPrefix(arguments.prefix_tokens, arguments.suffix_tokens, seed=2 * turn)
        turns.append((await _ttft_ms(server, prompts), await _ttft_ms(server, prompts)))
    return turns[1:]


async def _ttft_ms(server: Server, prompts: Prompts) -> float:
    (sample,) = (await server.run(ONE, prompts)).samples
    if sample.error is not None:
        raise SystemExit(sample.error)
    return sample.ttft_ms


if __name__ == "__main__":
    main()
