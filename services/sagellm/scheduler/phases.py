"""What part of a request an instance is asked for, and which roles answer to it."""

from enum import StrEnum

from sagellm_schemas import InstanceRole


class Phase(StrEnum):
    """WHOLE is prompt and answer on one instance; PREFILL and DECODE are the halves of a split request."""

    WHOLE = "whole"
    PREFILL = "prefill"
    DECODE = "decode"


def phases_of(role: InstanceRole, can_split: bool) -> tuple[Phase, ...]:
    """The phases that an instance of `role` serves.

    Where KV blocks cannot move between instances (`can_split` is false), every instance runs whole requests. Where
    they can, prefilling instances are kept free for split requests; decoding ones still run whole requests that
    are not worth splitting, as they need no transfer there.
    """
    if not can_split:
        return (Phase.WHOLE,)
    if role is InstanceRole.PREFILLING:
        return (Phase.PREFILL,)
    if role is InstanceRole.DECODING:
        return (Phase.DECODE, Phase.WHOLE)
    if role is InstanceRole.HYBRID:
        return (Phase.PREFILL, Phase.DECODE, Phase.WHOLE)
    return (Phase.WHOLE,)
