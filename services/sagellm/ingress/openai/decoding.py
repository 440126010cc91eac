"""Bytes to a body, with errors that name the field at fault."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from sagellm_schemas import InvalidRequest

T = TypeVar("T")

_QUOTED = re.compile(r"`([^`]*)`")


class BodyDecoder(Generic[T]):
    """Decoder for one type of body. Build it once."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, data: bytes) -> T:
        """The body in `data`.

        Raises:
            InvalidRequest: it is not JSON, or not of this shape; `param` names the field where there is one.
        """
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _unreadable(data, str(error)) from None
        except RecursionError:
            raise InvalidRequest("the body is nested too deeply") from None


def _invalid(message: str) -> InvalidRequest:
    """From `Expected `float`, got `str` - at `$.temperature`` to a sentence with the field in front."""
    problem, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    named = _QUOTED.search(problem)
    if named and ("unknown field" in problem or "missing required field" in problem):
        path = f"{path}.{named[1]}" if path else named[1]
        verb = "is not a known field" if "unknown" in problem else "is required"
        return InvalidRequest(f"{path} {verb}", param=path)
    problem = problem[:1].lower() + problem[1:]
    return InvalidRequest(f"{path}: {problem}" if path else f"the body is wrong: {problem}", param=path or None)


def _unreadable(data: bytes, problem: str) -> InvalidRequest:
    """Where a number or text that JSON does not allow (NaN, invalid UTF-8) can be found, name its field."""
    try:
        loose = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return InvalidRequest(f"the body is not valid JSON: {problem}")
    for path, value in _leaves(loose, ""):
        if isinstance(value, float) and not math.isfinite(value):
            return InvalidRequest(f"{path} must be a finite number; got {value}", param=path)
        if isinstance(value, str) and "\ufffd" in value:
            return InvalidRequest(f"{path} is not valid UTF-8", param=path)
    return InvalidRequest(f"the body is not valid JSON: {problem}")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every scalar inside `value` with its path, without recursion: the value may be nested deeply."""
    todo = [(path, value)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            todo.extend((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
        elif isinstance(value, list):
            todo.extend((f"{path}[{index}]", item) for index, item in enumerate(value))
        else:
            yield path, value
