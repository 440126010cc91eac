"""`Reader`: what is held of one request's answer, over all its attempts."""

from array import array
from typing import Literal

import msgspec

from sagellm_schemas import ErrorBody, Event, Failed, Finished, Tokens, Unavailable

from .inbox import Inbox

Fed = Literal["more", "gap", "ended"]


class Reader:
    """Turns the events of one request into a sequence without holes and doubles.

    A new attempt (the worker died, or handed the request back) goes on where the reader stands. What it repeats
    is trimmed; events of older attempts are dropped. An event that leaves a hole (a frame was lost) stops the
    attempt: nothing more of it is passed on, and only a higher attempt can go on.
    """

    __slots__ = ("_inbox", "_repeated", "_text_chars", "_text_ends", "attempt", "choice", "gapped", "held")

    def __init__(self, choice: int, inbox: Inbox) -> None:
        self.choice = choice
        self.attempt = 0
        self.held = array("q")
        """Output tokens so far, for the scheduler's `HeldQuery`."""
        self.gapped = False
        self._inbox = inbox
        self._text_chars = 0
        self._text_ends = array("q")  # after each held token, how much text had come
        self._repeated: tuple[int, int] | None = None  # token and character where a repeating attempt stands

    def feed(self, event: Event) -> Fed:
        """Pass on what is new in `event`; tells whether the answer has ended, or has a hole just now."""
        if event.attempt != self.attempt:
            if event.attempt < self.attempt:
                return "more"
            self.expect(event.attempt)
        if type(event) is Tokens:
            if self.gapped:
                return "more"
            if event.offset == len(self.held) and self._repeated is None:
                self._take(event)
                return "more"
            return self._out_of_order(event)
        if self.gapped and type(event) is Finished:
            self.fail(lost())
        else:
            self._inbox.put(self.choice, event)
        return "ended"

    def expect(self, attempt: int) -> None:
        """From now on attempts below `attempt` count no more."""
        if attempt > self.attempt:
            self.attempt = attempt
            self.gapped = False
            self._repeated = None

    def fail(self, error: ErrorBody) -> None:
        """End the answer with an error of our own."""
        self._inbox.put(self.choice, Failed(id="", error=error, attempt=self.attempt))

    def _take(self, event: Tokens) -> None:
        before = self._text_chars
        self._text_chars = after = before + len(event.text)
        ids = event.token_ids
        if len(ids) == 1:
            self.held.append(ids[0])
            self._text_ends.append(after)
        elif ids:
            self.held.extend(ids)
            self._text_ends.extend([before] * (len(ids) - 1))
            self._text_ends.append(after)
        self._inbox.put(self.choice, event)

    def _out_of_order(self, event: Tokens) -> Fed:
        held = len(self.held)
        if event.offset > held:
            self.gapped = True
            return "gap"
        if self._repeated is not None and self._repeated[0] == event.offset:
            first_char = self._repeated[1]
        else:
            first_char = self._text_ends[event.offset - 1] if event.offset else 0
        end = event.offset + len(event.token_ids), first_char + len(event.text)
        self._repeated = None if end[0] >= held and end[1] >= self._text_chars else end
        new_ids = event.token_ids[held - event.offset :]
        new_text = event.text[max(0, self._text_chars - first_char) :]
        if new_ids or new_text:
            logprobs = event.logprobs and event.logprobs[held - event.offset :]
            self._take(
                msgspec.structs.replace(event, offset=held, token_ids=new_ids, text=new_text, logprobs=logprobs)
            )
        return "more"


def lost() -> ErrorBody:
    """The error of an answer with a hole that nobody filled."""
    return Unavailable("a part of the answer was lost on its way; please try again", retry_after_s=1.0).body()
