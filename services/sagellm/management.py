"""Asking and ordering the leading scheduler, for services and tools that have a connection to NATS."""

from typing import TypeVar

import msgspec
import nats.errors

from sagellm.broker import Client
from sagellm_schemas import Codec, ErrorBody, Unavailable, encode, from_body

TIMEOUT_S = 10.0
"""Looking for a place far behind in a long queue takes a while, beside everything else that the leader does."""

RETRY_AFTER_S = 1.0

T = TypeVar("T", bound=msgspec.Struct)


class _MaybeRefused(msgspec.Struct, frozen=True):
    error: ErrorBody | None = None


class Management:
    """Sends questions and orders to whichever scheduler leads."""

    def __init__(self, nc: Client) -> None:
        self._nc = nc
        self._refusals = Codec(_MaybeRefused)

    async def ask(self, subject: str, message: msgspec.Struct, answer: type[T]) -> T:
        """The answer to `message`.

        Raises:
            SageError: the scheduler refuses (the error is its own), or none leads.
        """
        try:
            reply = await self._nc.request(subject, encode(message), timeout=TIMEOUT_S)
        except nats.errors.NoRespondersError:
            raise Unavailable(
                "no scheduler leads at this moment; try again, or start one with `sagellm scheduler`",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(
                f"the leading scheduler did not answer ({str(error) or type(error).__name__}); try again",
                retry_after_s=RETRY_AFTER_S,
            ) from None
        refused = self._refusals.decode(reply.data).error
        if refused is not None:
            raise from_body(refused)
        return Codec(answer).decode(reply.data)
