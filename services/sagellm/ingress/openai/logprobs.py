"""Log probabilities in OpenAI's two formats."""

from collections.abc import Iterable

from sagellm_schemas import PositionLogprobs, TokenLogprob

from .responses import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob


def chat_logprobs(positions: Iterable[PositionLogprobs]) -> ChatLogprobs:
    """In the format of chat completions."""
    return ChatLogprobs(
        content=[
            ChatLogprob(
                token=position.chosen.token,
                logprob=position.chosen.logprob,
                bytes=_bytes(position.chosen),
                top_logprobs=[TopLogprob(token=t.token, logprob=t.logprob, bytes=_bytes(t)) for t in position.top],
            )
            for position in positions
        ]
    )


def completion_logprobs(positions: Iterable[PositionLogprobs], text_offset: int) -> CompletionLogprobs:
    """In the format of plain completions; the first token stands at `text_offset` of the text."""
    tokens: list[str] = []
    offsets: list[int] = []
    chosen: list[float] = []
    top: list[dict[str, float]] = []
    for position in positions:
        tokens.append(position.chosen.token)
        offsets.append(text_offset)
        text_offset += len(position.chosen.token)
        chosen.append(position.chosen.logprob)
        top.append({t.token: t.logprob for t in position.top})
    return CompletionLogprobs(tokens=tokens, token_logprobs=chosen, top_logprobs=top, text_offset=offsets)


def _bytes(token: TokenLogprob) -> list[int]:
    return token.bytes or list(token.token.encode())
