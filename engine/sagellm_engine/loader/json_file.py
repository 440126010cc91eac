"""JSON files of a model folder."""

from pathlib import Path
from typing import Any

import msgspec

from sagellm_schemas import ModelLoadError


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """The object in `path`; an empty one if the file is `optional` and not there.

    Raises:
        ModelLoadError: the file is missing or holds no JSON object.
    """
    if not path.is_file():
        if optional:
            return {}
        raise ModelLoadError(f"{path.parent} has no {path.name}")
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
