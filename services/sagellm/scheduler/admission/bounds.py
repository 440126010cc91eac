"""The bounds of admission, as an operator sets them; None is no bound."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sagellm.settings import Settings


@dataclass(frozen=True)
class Bounds:
    """Bounds of every model, and of every user over all models. Requests that name no user share one user's.

    `tiers` are factors on a user's bounds by billing tier; a tier that is not there counts as 1.
    """

    queued_per_model: int | None = None
    queued_per_user: int | None = None
    model_requests_per_minute: float | None = None
    model_tokens_per_minute: float | None = None
    user_requests_per_minute: float | None = None
    user_tokens_per_minute: float | None = None
    tiers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "Bounds":
        """What `settings` ask for."""
        return cls(
            queued_per_model=settings.max_queued_per_model,
            queued_per_user=settings.max_queued_per_user,
            model_requests_per_minute=settings.model_requests_per_minute,
            model_tokens_per_minute=settings.model_tokens_per_minute,
            user_requests_per_minute=settings.user_requests_per_minute,
            user_tokens_per_minute=settings.user_tokens_per_minute,
            tiers=settings.tier_bounds,
        )

    def factor(self, tier: str) -> float:
        """What the bounds of a user of that billing tier are multiplied by."""
        return self.tiers.get(tier, 1.0)
