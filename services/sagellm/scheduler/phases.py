"""What part of a request an instance is asked for, and which roles answer to it."""

from enum import StrEnum

from sagellm_schemas import InstanceRole


class Phase(StrEnum):
    """WHOLE is prompt and answer on one instance; PREFILL and DECODE are the halves of a split request."""

    WHOLE = "whole"
    PREFILL = "prefill"
    DECODE = "decode"


def phases_of(role: InstanceRole) -> tuple[Phase, ...]:
    """The phases that an instance of `role` is meant for.

    Prefilling instances are kept free for what should not run beside decodes. Decoding ones take whole requests
    too: those that are not worth splitting need no transfer there.
    """
    if role is InstanceRole.PREFILLING:
        return (Phase.PREFILL,)
    if role is InstanceRole.DECODING:
        return (Phase.DECODE, Phase.WHOLE)
    if role is InstanceRole.HYBRID:
        return (Phase.PREFILL, Phase.DECODE, Phase.WHOLE)
    return (Phase.WHOLE,)
