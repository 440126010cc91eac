"""What the scheduler measures: for Prometheus, and as `Snapshot`s for people and APIs."""

from .prometheus import SchedulerMetrics
from .snapshot import take_snapshot

__all__ = ["SchedulerMetrics", "take_snapshot"]
