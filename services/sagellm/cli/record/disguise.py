"""Names that say who is the same and what is equal, and nothing else."""

import hashlib
import secrets
from collections.abc import Sequence

from sagellm_schemas.prefix import HASH_BYTES, short_hashes

NAME_BYTES = 6
BLOCK_BITS = 48
"""Every JSON reader holds so large a number exactly."""


class Disguise:
    """Hashes with a secret that dies with the recording: no list of users or prompts can be tried against them.

    With `keep_users` users and sessions keep their names.
    """

    def __init__(self, *, keep_users: bool = False, block_tokens: int = 16) -> None:
        self.block_tokens = block_tokens
        self._keep_users = keep_users
        self._secret = secrets.token_bytes(HASH_BYTES)

    def name(self, name: str) -> str:
        """A user or a session; nobody stays nobody."""
        if not name or self._keep_users:
            return name
        return hashlib.blake2b(name.encode(), key=self._secret, digest_size=NAME_BYTES).hexdigest()

    def blocks(self, token_ids: Sequence[int]) -> list[int]:
        """Names of the full blocks of a prompt; equal ones are equal up to and including that block."""
        mask = (1 << BLOCK_BITS) - 1
        count = len(token_ids) // self.block_tokens
        return [name & mask for name in short_hashes(token_ids, self.block_tokens, count, self._secret)]
