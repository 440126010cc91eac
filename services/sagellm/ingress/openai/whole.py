"""An answer as one JSON document."""

import msgspec

from sagellm_schemas import ErrorBody, Failed, Finished, PositionLogprobs, Tokens, Usage

from .answer import FINGERPRINT, Answer, Events
from .errors import CANCELLED
from .logprobs import chat_logprobs, completion_logprobs
from .responses import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    usage_document,
)


class _Choice:
    """What has come for one choice."""

    __slots__ = ("finished", "logprobs", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.logprobs: list[PositionLogprobs] | None = None
        self.finished = Finished(id="")


class Collector:
    """Gathers the events of one answer."""

    def __init__(self, answer: Answer) -> None:
        self.open_choices = answer.choices
        self.error: ErrorBody | None = None
        self.usages: dict[int, Usage] = {}
        self._answer = answer
        self._choices = [_Choice() for _ in range(answer.choices)]

    def add(self, events: Events) -> None:
        """Take events in. After an error event nothing more may be added."""
        for index, event in events:
            choice = self._choices[index]
            if type(event) is Tokens:
                choice.pieces.append(event.text)
                if event.logprobs is not None:
                    choice.logprobs = [*(choice.logprobs or []), *event.logprobs]
            elif type(event) is Finished:
                choice.finished = event
                self.usages[index] = event.usage
                self.open_choices -= 1
            else:
                self.error = event.error if type(event) is Failed else CANCELLED
                return

    def chat(self) -> bytes:
        """The response of a chat completion."""
        answer = self._answer
        return msgspec.json.encode(
            ChatCompletion(
                id=answer.id,
                created=answer.created,
                model=answer.model,
                system_fingerprint=FINGERPRINT,
                choices=[
                    ChatChoice(
                        index=index,
                        message=AssistantMessage(content="".join(choice.pieces)),
                        logprobs=None if choice.logprobs is None else chat_logprobs(choice.logprobs),
                        finish_reason=choice.finished.finish_reason,
                        stop_reason=choice.finished.stop_reason,
                    )
                    for index, choice in enumerate(self._choices)
                ],
                usage=usage_document(self.usages, answer.choices_per_prompt),
            )
        )

    def completion(self) -> bytes:
        """The response of a plain completion."""
        answer = self._answer
        choices: list[CompletionChoice] = []
        for index, choice in enumerate(self._choices):
            echo = answer.echo[index // answer.choices_per_prompt] if answer.echo else ""
            choices.append(
                CompletionChoice(
                    index=index,
                    text=echo + "".join(choice.pieces),
                    logprobs=None if choice.logprobs is None else completion_logprobs(choice.logprobs, len(echo)),
                    finish_reason=choice.finished.finish_reason,
                    stop_reason=choice.finished.stop_reason,
                )
            )
        return msgspec.json.encode(
            Completion(
                id=answer.id,
                created=answer.created,
                model=answer.model,
                system_fingerprint=FINGERPRINT,
                choices=choices,
                usage=usage_document(self.usages, answer.choices_per_prompt),
            )
        )
