"""Reading a request's body from ASGI, up to a limit."""

from starlette.types import Receive, Scope

from sagellm_schemas import MessageTooLarge


class ClientGone(Exception):
    """The client left before its request was complete; nobody is there to be answered."""


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body.

    Raises:
        MessageTooLarge: it is longer than `max_bytes`; no more than that is read.
        ClientGone: the client left.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and len(value) < 20 and int(value) > max_bytes:
            raise _too_large(max_bytes)
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return body


def _too_large(max_bytes: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"the body is larger than {max_bytes} bytes; the limit is the setting SAGELLM_MAX_BODY_BYTES"
    )
