"""threshold: split what has a long prompt, or one that is long beside its answer."""

from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest

from .base import Prospect

INPUT_TOKENS = 800
RATIO = 4.0
LEAST_INPUT_TOKENS = 64
"""Below this the ratio does not count: a prompt that fits one step beside the decodes delays nobody."""


class Threshold:
    """More than 800 tokens of input, or more than 4 times as many as of output."""

    name: ClassVar[str] = "threshold"

    def splits(self, request: TrackedRequest, prospect: Prospect) -> bool:
        """By the size of the prompt."""
        if prospect.input_tokens > INPUT_TOKENS:
            return True
        if prospect.input_tokens < LEAST_INPUT_TOKENS or not prospect.output_tokens:
            return False
        return prospect.input_tokens > RATIO * prospect.output_tokens
