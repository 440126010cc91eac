"""The scheduler's clocks: every waiting time, derived from the settings in one place."""

from dataclasses import dataclass

from sagellm.settings import Settings


@dataclass(frozen=True)
class Timings:
    """Durations in seconds.

    `probe_after_s` of silence an instance is asked; `hung_after_s` without an answer it is fenced.
    `reconcile_after_s` is how old a dispatch must be before a heartbeat without it is suspicious.
    `control_timeout_s` bounds one `Control` request, `owner_timeout_s` one `HeldQuery`; a reply owner that cannot
    be reached for `owner_grace_s` is gone: long enough for an ingress to reconnect after a broker's restart.
    For `reconnect_grace_s` after a reconnection of ours, an instance that is not there may still come back.
    `replay_limit_s` bounds how long a new leader without a true copy of the queue holds back dispatching for the
    replay to be complete.
    """

    lease_ttl_s: float
    heartbeat_interval_s: float
    probe_after_s: float
    hung_after_s: float
    reconcile_after_s: float
    control_timeout_s: float
    owner_timeout_s: float
    owner_grace_s: float
    reconnect_grace_s: float
    replay_limit_s: float = 10.0
    consumer_heartbeat_s: float = 1.0

    @classmethod
    def of(cls, settings: Settings) -> "Timings":
        """The timings that `settings` ask for."""
        beat = settings.heartbeat_interval_s
        return cls(
            lease_ttl_s=settings.lease_ttl_s,
            heartbeat_interval_s=beat,
            probe_after_s=2.4 * beat,
            hung_after_s=settings.heartbeat_timeout_s,
            reconcile_after_s=4 * beat,
            control_timeout_s=max(0.1, 2 * beat),
            owner_timeout_s=max(0.5, settings.heartbeat_timeout_s / 2),
            owner_grace_s=2.5 * settings.heartbeat_timeout_s,
            reconnect_grace_s=settings.heartbeat_timeout_s,
        )
