"""The show of `sagellm demo`: requests of different priorities at once, in a live table."""

import asyncio
import time

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from sagellm_schemas import RequestPriority

from .openai_client import OpenAIClient

MAX_TOKENS = 48
REFRESHES_PER_S = 10
PROMPTS = (
    (RequestPriority.BACKGROUND, "Summarize what a message queue does."),
    (RequestPriority.LOW, "List three uses of a paper clip."),
    (RequestPriority.NORMAL, "What is the capital of France?"),
    (RequestPriority.NORMAL, "Write a sentence about the sea."),
    (RequestPriority.HIGH, "Explain gravity to a child."),
    (RequestPriority.CRITICAL, "What should I do if a pan catches fire?"),
)
"""In the order in which they are sent: the most urgent comes last."""


class Line(msgspec.Struct):
    """One request's row of the table."""

    priority: RequestPriority
    prompt: str
    text: str = ""
    pieces: int = 0
    ttft_s: float | None = None
    streamed_s: float = 0.0
    place: int | None = None
    """Whose first token came first."""


async def show(url: str, model: str) -> None:
    """Send all prompts at once and draw the table until the last is answered.

    Raises:
        SageError: a request failed.
    """
    lines = [Line(priority, prompt) for priority, prompt in PROMPTS]
    server = OpenAIClient(url)
    places = iter(range(1, len(lines) + 1))

    async def ask(line: Line) -> None:
        sent_s = time.monotonic()
        messages = [{"role": "user", "content": line.prompt}]
        async for piece in server.chat(
            model, messages, max_tokens=MAX_TOKENS, temperature=0, priority=line.priority.name
        ):
            now_s = time.monotonic() - sent_s
            if line.ttft_s is None:
                line.ttft_s, line.place = now_s, next(places)
            line.streamed_s = now_s - line.ttft_s
            line.text += piece
            line.pieces += 1

    try:
        with Live(console=Console(), refresh_per_second=REFRESHES_PER_S, get_renderable=lambda: _table(lines)):
            async with asyncio.TaskGroup() as requests:
                for line in lines:
                    requests.create_task(ask(line))
    finally:
        await server.close()


def _table(lines: list[Line]) -> Table:
    table = Table(title="sent at once, most urgent last", title_justify="left", expand=True)
    table.add_column("priority")
    table.add_column("started", justify="right")
    table.add_column("TTFT", justify="right")
    table.add_column("tokens/s", justify="right")
    table.add_column("answer", ratio=1, no_wrap=True, overflow="ellipsis")
    for line in lines:
        table.add_row(
            line.priority.name,
            f"{line.place}." if line.place else "",
            f"{line.ttft_s * 1000:.0f} ms" if line.ttft_s is not None else "waits",
            f"{(line.pieces - 1) / line.streamed_s:.0f}" if line.streamed_s > 0 else "",
            " ".join(line.text.split()) or f"[dim]{line.prompt}[/dim]",
        )
    return table
