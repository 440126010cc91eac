"""One reason why a request is refused."""

import math
from dataclasses import dataclass

from sagellm_schemas import SageError


@dataclass(frozen=True, slots=True)
class Refusal:
    """What bound it would exceed, as metrics name it; in words for whoever asked; and for how long, probably."""

    reason: str
    kind: type[SageError]
    message: str
    retry_after_s: float

    def error(self) -> SageError:
        """The error that answers the request."""
        seconds = max(1, math.ceil(self.retry_after_s))
        return self.kind(f"{self.message}; try again in {seconds} s", retry_after_s=self.retry_after_s)
