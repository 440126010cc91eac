"""`sagellm chat`: talk to a model in the terminal."""

from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    import asyncio

    from .conversation import Conversation

HELP = "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer"


def chat(
    question: Annotated[str | None, typer.Argument(help="Ask only this, and leave.")] = None,
    url: options.Url = options.DEFAULT_URL,
    model: Annotated[str | None, typer.Option(help="Model; the server's first if not given.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 512,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0, max=2)] = 0.7,
) -> None:
    """Chat with a model, streaming."""
    import asyncio

    from .conversation import Conversation, pick_model
    from .openai_client import OpenAIClient

    with asyncio.Runner() as runner:
        server = OpenAIClient(url)
        name = runner.run(pick_model(server, model))
        conversation = Conversation(server, name, system, max_tokens=max_tokens, temperature=temperature)
        try:
            if question is not None:
                runner.run(conversation.ask(question))
            else:
                _talk(runner, conversation)
        finally:
            runner.run(server.close())


def _talk(runner: "asyncio.Runner", conversation: "Conversation") -> None:
    from sagellm_schemas import SageError

    typer.secho(f"{conversation.model}: {HELP}", dim=True, err=True)
    while True:
        try:
            question = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if question in ("/exit", "/quit"):
            return
        if question == "/reset":
            conversation.reset()
        elif question.startswith("/"):
            typer.secho(HELP, dim=True, err=True)
        elif question:
            try:
                runner.run(conversation.ask(question))
            except KeyboardInterrupt:
                typer.echo()
            except SageError as error:
                typer.secho(error.message, fg="red", err=True)
