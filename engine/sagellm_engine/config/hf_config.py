"""`HFConfig`: checked reading of a Hugging Face `config.json`, as transformers 4 or 5 writes it."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from sagellm_schemas import ModelLoadError

T = TypeVar("T")

_LARGEST_SIZE = 2**31 - 1


class HFConfig:
    """The keys of a config. To most, null is the same as to be missing: a `default` stands in for both."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def with_defaults(self, **defaults: Any) -> "HFConfig":
        """The same, with what a family means by keys that are missing; a null stays one."""
        return HFConfig({**defaults, **self._values})

    def has(self, key: str) -> bool:
        """Whether there is a value, which null is not."""
        return self._values.get(key) is not None

    def value(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of `key`.

        Raises:
            ModelLoadError: there is none and no default, or it is no `kind`.
        """
        value = self._values.get(key)
        if value is None:
            if default is None:
                raise ModelLoadError(f"the model config has no {key}")
            return default
        try:
            return msgspec.convert(value, kind, strict=True)
        except msgspec.ValidationError:
            name = kind.__name__ if isinstance(kind, type) else kind
            raise ModelLoadError(f"the model config has {key} {value!r}, which is no {name}") from None

    def flag(self, key: str) -> bool:
        """The value of `key`; False if there is none."""
        return self.value(key, bool, False)

    def size(self, key: str, default: int | None = None, largest: int = _LARGEST_SIZE) -> int:
        """A number from 1 to `largest`.

        Raises:
            ModelLoadError: there is none and no default, or it is no such number.
        """
        value = self.value(key, int, default)
        if not 1 <= value <= largest:
            raise ModelLoadError(f"the model config has {key} {value}, which must be from 1 to {largest}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above 0.

        Raises:
            ModelLoadError: there is none and no default, or it is no such number.
        """
        value = self.value(key, float, default)
        if value <= 0:
            raise ModelLoadError(f"the model config has {key} {value}, which must be above 0")
        return value

    def window(self) -> int | None:
        """`sliding_window`, or None where it is as wide as the context."""
        if not self.has("sliding_window"):
            return None
        window = self.size("sliding_window")
        return window if window < self.size("max_position_embeddings") else None
