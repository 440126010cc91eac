"""sjf: shortest job first; a baseline for comparisons, not for service: under load long requests starve."""

from typing import ClassVar

from sagellm.scheduler.requests import TrackedRequest

from .base import BasePolicy, Key
from .wording import duration


class Sjf(BasePolicy):
    """By predicted time from dispatch to last token, as it was when the request entered."""

    name: ClassVar[str] = "sjf"

    def key(self, request: TrackedRequest) -> Key:
        """Predicted service time."""
        return (self.outlook.service_s(request),)

    def explain(self, request: TrackedRequest, now_s: float) -> str:
        """How long it will take."""
        return f"it will take about {duration(self.outlook.service_s(request))}, and shorter ones go first"
