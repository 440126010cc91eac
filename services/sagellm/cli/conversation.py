"""A conversation with a chat model, printed as it streams."""

import typer

from sagellm_schemas import ModelNotFound

from .openai_client import OpenAIClient


class Conversation:
    """Questions and answers so far. Only what was answered whole is kept."""

    def __init__(
        self, server: OpenAIClient, model: str, system: str | None, *, max_tokens: int, temperature: float
    ) -> None:
        self.model = model
        self._server = server
        self._head = [{"role": "system", "content": system}] if system else []
        self._turns: list[dict[str, str]] = []
        self._max_tokens = max_tokens
        self._temperature = temperature

    async def ask(self, question: str) -> None:
        """Ask, print the answer as it comes, and remember both.

        Raises:
            SageError: it was not answered; the conversation is as it was before.
        """
        asked = {"role": "user", "content": question}
        pieces: list[str] = []
        async for piece in self._server.chat(
            self.model,
            [*self._head, *self._turns, asked],
            max_tokens=self._max_tokens,
            temperature=self._temperature,
        ):
            typer.echo(piece, nl=False)
            pieces.append(piece)
        typer.echo()
        self._turns += [asked, {"role": "assistant", "content": "".join(pieces)}]

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        self._turns.clear()


async def pick_model(server: OpenAIClient, wanted: str | None) -> str:
    """`wanted`, or the first model that the server names.

    Raises:
        ModelNotFound: it serves none.
    """
    if wanted is not None:
        return wanted
    names = await server.models()
    if not names:
        raise ModelNotFound(f"{server.url} serves no model; start a worker")
    return names[0]
