"""What `sagellm up` shows once it is ready: the first answer, and what to try next."""

import json
import time

import typer

from sagellm.cli.conversation import Conversation
from sagellm.cli.joining import JOIN_FILE
from sagellm.cli.openai_client import OpenAIClient

from .output import Output
from .pipeline import Pipeline

QUESTION = "What is the capital of France? Answer in one sentence."


async def greet(running: Pipeline, output: Output, *, ask: bool, json_ready: bool) -> None:
    """Say that it is ready; with `ask` ask the first question, with `json_ready` print a line for programs.

    Raises:
        SageError: the question was not answered.
    """
    url, model = running.url, running.model
    output.say(f"ready: {model} at {url}")
    if ask:
        await _ask(url, model, output)
    if json_ready:
        typer.echo(json.dumps(_machine_readable(running)))
    output.say("try:")
    output.say(f"  {_curl(url, model)}")
    output.say(f"  sagellm chat --url {url}")
    if running.embedded_nats:
        join_file = running.settings.state_dir / JOIN_FILE
        output.say(f"NATS listens at {running.settings.nats_url}; its variables are in {join_file}")


async def _ask(url: str, model: str, output: Output) -> None:
    output.say(f"asking it: {QUESTION}")
    started = time.monotonic()
    server = OpenAIClient(url)
    try:
        await Conversation(server, model, None, max_tokens=64, temperature=0).ask(QUESTION)
    finally:
        await server.close()
    output.say(f"answered in {time.monotonic() - started:.2f} s")


def _machine_readable(running: Pipeline) -> dict[str, object]:
    return {
        "url": running.url,
        "model": running.model,
        "nats_url": running.settings.nats_url,
        "pids": {child.name: child.pid for child in running.children},
    }


def _curl(url: str, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Tell me a short story."}], "stream": True}
    return f"curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
