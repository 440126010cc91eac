"""The numbers of the built-in policies, in one object, so that service and simulator set them alike."""

from dataclasses import dataclass, field

from sagellm.settings import Settings


def _weights() -> dict[str, float]:
    return {"free": 0.5, "standard": 1.0, "premium": 2.0, "enterprise": 4.0}


@dataclass(frozen=True)
class PolicyOptions:
    """Durations are seconds.

    `ageing_s`: how much longer each step down in priority may wait; a request goes before everything that arrives
    more than `ageing_s` times the difference of priorities after it. `late_bound_s`: a late request that has
    waited for so long has a right to `late_share` of the time, beside requests that are in time, and to more the
    longer it waits. `work_weight`: of slo_aware, seconds that a request stands back per second of work.
    `tier_weights`: shares of billing tiers under fair; an unknown tier counts as 1. `deferrable_s`: a deadline at
    least this far away makes a request deferrable under cost_optimized.
    """

    ageing_s: float = 30.0
    late_bound_s: float = 60.0
    late_share: float = 0.1
    work_weight: float = 5.0
    tier_weights: dict[str, float] = field(default_factory=_weights)
    deferrable_s: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> "PolicyOptions":
        """What `settings` ask for."""
        return cls(
            ageing_s=settings.ageing_s,
            late_bound_s=settings.late_bound_s,
            tier_weights=settings.tier_weights,
        )
