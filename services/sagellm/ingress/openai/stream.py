"""An answer as server-sent events.

Every token has a chunk of its own, unless more of them are there when it is sent: then they share one, so that a
busy ingress or a slow client catches up instead of falling behind. A chunk is bytes known in advance, the text as
a JSON string, and more bytes known in advance. The two protocols differ in those bytes only: their `Wording`.
"""

from collections.abc import Callable

import msgspec

from sagellm_schemas import ErrorBody, Failed, Finished, PositionLogprobs, Tokens, Usage

from .answer import DONE, FINGERPRINT, Answer, Events
from .errors import CANCELLED
from .logprobs import chat_logprobs, completion_logprobs
from .responses import ChatLogprobs, CompletionLogprobs, usage_document

_json = msgspec.json.Encoder()


class Wording(msgspec.Struct, frozen=True, kw_only=True):
    """How a protocol says it: what stands around a text, what the first and the last chunk hold for a text, and
    its log probabilities (given the positions and how many characters came before)."""

    kind: str
    before_text: bytes
    after_text: bytes
    first: bytes
    """Content of the chunk that opens each choice; empty if there is none."""
    last: bytes
    logprobs: Callable[[list[PositionLogprobs], int], ChatLogprobs | CompletionLogprobs]


CHAT = Wording(
    kind="chat.completion.chunk",
    before_text=b'"delta":{"content":',
    after_text=b"}",
    first=b'"delta":{"role":"assistant","content":""}',
    last=b'"delta":{}',
    logprobs=lambda positions, _chars: chat_logprobs(positions),
)
COMPLETION = Wording(
    kind="text_completion",
    before_text=b'"text":',
    after_text=b"",
    first=b"",
    last=b'"text":""',
    logprobs=completion_logprobs,
)


class ChunkStream:
    """Makes the chunks of one answer."""

    def __init__(self, answer: Answer, wording: Wording) -> None:
        self.open_choices = answer.choices
        self.error: ErrorBody | None = None
        self.tokens = 0
        """Output tokens so far, over all choices."""
        self.usages: dict[int, Usage] = {}
        self._answer = answer
        self._wording = wording
        self._head = (
            b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"system_fingerprint":"%b","choices":['
            % (
                _json.encode(answer.id),
                wording.kind.encode(),
                answer.created,
                _json.encode(answer.model),
                FINGERPRINT.encode(),
            )
        )
        self._tail = b'],"usage":null}\n\n' if answer.include_usage else b"]}\n\n"
        self._choice_heads = [self._head + b'{"index":%d,' % choice for choice in range(answer.choices)]
        self._text_heads = [head + wording.before_text for head in self._choice_heads]
        self._text_tail = wording.after_text + b',"logprobs":null,"finish_reason":null}' + self._tail
        self._begun = [False] * answer.choices
        self._chars = [0] * answer.choices

    def add(self, events: Events) -> bytes:
        """The chunks of `events`, joined. After an error event nothing more may be added."""
        pieces: list[bytes] = []
        text, of = "", -1  # what the chunk being gathered has, and its choice
        for choice, event in events:
            if type(event) is Tokens and event.logprobs is None and choice == of:
                self.tokens += len(event.token_ids)
                text += event.text
                continue
            if text:
                pieces.append(self._chunk(of, text))
            text, of = "", -1
            if not self._begun[choice]:
                self._begun[choice] = True
                pieces.append(self._first(choice))
            if type(event) is Tokens:
                self.tokens += len(event.token_ids)
                if event.logprobs is None:
                    text, of = event.text, choice
                else:
                    pieces.append(self._with_logprobs(choice, event.text, event.logprobs))
            elif type(event) is Finished:
                pieces.append(self._last(choice, event))
                self.usages[choice] = event.usage
                self.open_choices -= 1
            else:
                self.error = event.error if type(event) is Failed else CANCELLED
                break
        if text:
            pieces.append(self._chunk(of, text))
        return b"".join(pieces)

    def end(self) -> bytes:
        """The usage chunk, if it was asked for, and the end mark."""
        if not self._answer.include_usage:
            return DONE
        usage = _json.encode(usage_document(self.usages, self._answer.choices_per_prompt))
        return self._head + b'],"usage":' + usage + b"}\n\n" + DONE

    def _chunk(self, choice: int, text: str) -> bytes:
        return self._text_heads[choice] + _json.encode(text) + self._text_tail

    def _first(self, choice: int) -> bytes:
        first = self._wording.first
        if self._answer.echo:
            echo = self._answer.echo[choice // self._answer.choices_per_prompt]
            self._chars[choice] = len(echo)
            first = self._wording.before_text + _json.encode(echo) + self._wording.after_text
        if not first:
            return b""
        return self._choice_heads[choice] + first + b',"logprobs":null,"finish_reason":null}' + self._tail

    def _with_logprobs(self, choice: int, text: str, positions: list[PositionLogprobs]) -> bytes:
        logprobs = self._wording.logprobs(positions, self._chars[choice])
        self._chars[choice] += sum(len(position.chosen.token) for position in positions)
        return b"".join(
            (
                self._text_heads[choice],
                _json.encode(text),
                self._wording.after_text,
                b',"logprobs":',
                _json.encode(logprobs),
                b',"finish_reason":null}',
                self._tail,
            )
        )

    def _last(self, choice: int, event: Finished) -> bytes:
        reason = b',"logprobs":null,"finish_reason":' + _json.encode(event.finish_reason)
        if event.stop_reason is not None:
            reason += b',"stop_reason":' + _json.encode(event.stop_reason)
        return self._choice_heads[choice] + self._wording.last + reason + b"}" + self._tail
