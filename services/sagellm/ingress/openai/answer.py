"""`Answer`: what one HTTP response is about, whichever way it is sent."""

import msgspec

from sagellm_schemas import Event

FINGERPRINT = "sagellm"
DONE = b"data: [DONE]\n\n"

Events = list[tuple[int, Event]]
"""Events, each with the index of the choice that it belongs to."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with `choices` choices, of which `choices_per_prompt` belong to each prompt.

    `created` is in Unix seconds. `echo` holds a text for each prompt, or nothing.
    """

    id: str
    created: int
    model: str
    choices: int = 1
    choices_per_prompt: int = 1
    include_usage: bool = False
    echo: list[str] = msgspec.field(default_factory=list)
