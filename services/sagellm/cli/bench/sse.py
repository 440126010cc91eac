"""Reads a finished answer of an OpenAI server: which pieces brought output, how many tokens, what went wrong."""

import msgspec

from .connection import Answer
from .sample import Sample, sample

HTTP_OK = 200


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | str | None = None


class AnswerReader:
    """Turns answers into samples."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_Event)

    def read(self, answer: Answer) -> Sample:
        """The sample of `answer`. Its token count is the server's own `usage`."""
        try:
            return self._read(answer)
        except msgspec.MsgspecError as error:
            return Sample(error=f"not an OpenAI answer: {error}")

    def _read(self, answer: Answer) -> Sample:
        if answer.status != HTTP_OK:
            return Sample(error=f"HTTP {answer.status}: {self._refusal(b''.join(answer.pieces))}")
        arrivals_s: list[float] = []
        usage = None
        rest = b""
        done = False
        for piece, arrival_s in zip(answer.pieces, answer.arrivals_s, strict=True):
            *events, rest = (rest + piece).split(b"\n\n")
            for event in events:
                data = event.removeprefix(b"data:").lstrip()
                if len(data) == len(event):
                    continue
                if data == b"[DONE]":
                    done = True
                    continue
                decoded = self._decoder.decode(data)
                if decoded.error is not None:
                    return Sample(error=_text(decoded.error))
                usage = decoded.usage or usage
                if any(_has_output(choice) for choice in decoded.choices):
                    arrivals_s.append(arrival_s)
        if not done:
            return Sample(error="the stream ended without [DONE]")
        if usage is None:
            return Sample(error="the server sends no usage; it must know stream_options.include_usage")
        return sample(answer.sent_s, arrivals_s, usage.prompt_tokens, usage.completion_tokens)

    def _refusal(self, body: bytes) -> str:
        try:
            error = self._decoder.decode(body).error
        except msgspec.MsgspecError:
            error = None
        return _text(error) if error is not None else body[:200].decode(errors="replace")


def _has_output(choice: _Choice) -> bool:
    """A chat's opening event has a role only, and the last may have a finish reason only: no token came."""
    return bool(choice.text or (choice.delta and choice.delta.content))


def _text(error: _Error | str) -> str:
    return error if isinstance(error, str) else error.message
