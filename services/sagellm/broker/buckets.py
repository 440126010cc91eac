"""Reading a whole key-value bucket.

A watcher of nats-py may say that it has told everything there is before it has told anything, where the server's
answer to its question overtakes the entries. This does not.
"""

import asyncio

import nats.js.errors
from nats.js import JetStreamContext

AT_ONCE = 256


async def read_bucket(js: JetStreamContext, bucket: str) -> dict[str, bytes]:
    """Every present entry of `bucket`, by key."""
    store = await js.key_value(bucket)
    info = await js.stream_info(f"KV_{bucket}", subjects_filter=">")
    head = f"$KV.{bucket}."
    keys = [subject[len(head) :] for subject in info.state.subjects or {}]

    async def read(key: str) -> tuple[str, bytes | None]:
        try:
            return key, (await store.get(key)).value
        except (nats.js.errors.KeyNotFoundError, nats.js.errors.InvalidKeyError):
            return key, None

    found: dict[str, bytes] = {}
    for start in range(0, len(keys), AT_ONCE):
        entries = await asyncio.gather(*(read(key) for key in keys[start : start + AT_ONCE]))
        found.update({key: value for key, value in entries if value is not None})
    return found
