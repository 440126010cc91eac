"""From tokens to text as they come: whole characters only, and nothing that may become a stop string.

What is out after a token depends only on the tokens so far. So an answer that goes on elsewhere is decoded by
pushing the tokens the reader holds and throwing their text away: the reader has it.
"""

from .tokenizer import Tokenizer


class Detokenizer:
    """Decoder of one answer.

    `stop_string` is set once one of `stop` has appeared. Stop strings do not count in the first `min_tokens`.
    """

    def __init__(self, tokenizer: Tokenizer, stop: list[str], min_tokens: int = 0) -> None:
        self.stop_string: str | None = None
        self._stream = tokenizer.stream()
        self._stop = stop
        self._unchecked_tokens = min_tokens
        self._held = ""

    def push(self, token_id: int) -> str:
        """The text that is final with this token; up to the stop string if there is one."""
        self._held += self._stream.push(token_id)
        if self._unchecked_tokens:
            self._unchecked_tokens -= 1
            return self.flush()
        if not self._stop:
            return self.flush()
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.stop_string = min(found, key=lambda f: f[0])
            text, self._held = self._held[:at], ""
            return text
        keep = _possible_start(self._held, self._stop)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def flush(self) -> str:
        """The text held back, when no more tokens come. Bytes of an unfinished character are dropped."""
        text, self._held = self._held, ""
        return text


def _possible_start(text: str, stops: list[str]) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    longest = min(len(text), max(map(len, stops)) - 1)
    for length in range(longest, 0, -1):
        end = text[-length:]
        if any(stop.startswith(end) for stop in stops):
            return length
    return 0
