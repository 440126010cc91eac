"""What operators order the leading scheduler to do. It keeps each order where the next leader finds it."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from .enums import RequestStatus
from .queries import InstanceView, RequestView


class ChangeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Let a request ask for something else; what is left out stays, and null takes a deadline away.

    Deadlines count from its arrival, as those it came with. Answered with a `RequestChanged`.
    """

    id: str
    priority: int | str | UnsetType = UNSET
    ttft_slo_ms: float | UnsetType | None = UNSET
    slo_deadline_ms: float | UnsetType | None = UNSET


class RequestChanged(msgspec.Struct, frozen=True, kw_only=True):
    """The request as it is now, and in one sentence what that means for it."""

    request: RequestView
    effect: str


class CancelOrder(msgspec.Struct, frozen=True, kw_only=True):
    """End requests, waiting or running. Answered with a `CancelAnswer`."""

    ids: list[str]


class CancelledRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that ends, and what it was doing; `instance` is where it ran."""

    id: str
    was: RequestStatus
    instance: str = ""


class CancelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What was cancelled; `unknown` have ended already, or never were."""

    cancelled: list[CancelledRequest]
    unknown: list[str]


class InstanceOrder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Close an instance (send it no more work), open it again, or drain it: it finishes what it runs, and leaves.

    `id` is that of an instance; to drain, also that of a registered server, which is then registered no more.
    Answered with an `InstanceChanged`.
    """

    id: str
    action: Literal["close", "open", "drain"]
    reason: str = ""


class InstanceChanged(msgspec.Struct, frozen=True, kw_only=True):
    """What the order means, in one sentence, and the instance, if it is there."""

    effect: str
    instance: InstanceView | None = None


class SwitchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Use another policy or routing strategy from now on; null goes back to the setting.

    Answered with a `PolicyView`.
    """

    policy: str | UnsetType | None = UNSET
    routing: str | UnsetType | None = UNSET
