"""The lines of a trace file, plain or gzipped, with their numbers."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from sagellm_schemas import InvalidRequest

MAX_TOKENS = 10_000_000
"""More tokens than this in one request is a mistake in the file."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, as (number from 1, text).

    Raises:
        InvalidRequest: the file cannot be read, or is not text.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if text := line.strip():
                    yield number, text
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"the trace {path} cannot be read: {reason}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the trace {path} is not UTF-8 text: {error.reason}") from None


def bad_line(path: Path, number: int, problem: str) -> InvalidRequest:
    """The error for line `number`."""
    return InvalidRequest(f"{path}, line {number}: {problem}")


def token_count(path: Path, number: int, name: str, value: object, least: int) -> int:
    """`value` as a number of tokens.

    Raises:
        InvalidRequest: it is none, or is out of range.
    """
    try:
        count = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
    except ValueError:
        count = None
    if count is None or not least <= count <= MAX_TOKENS:
        raise bad_line(path, number, f"{name} must be a whole number from {least} to {MAX_TOKENS}, not {value!r}")
    return count
