"""From what the user calls a model to files on disk."""

import re
from dataclasses import dataclass
from pathlib import Path

from sagellm_schemas import ModelLoadError

from .aliases import ALIASES
from .pull import pull

_HF_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HF_FILES = ["*.json", "*.jinja", "model*.safetensors"]


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A folder or file, and the name it is served under."""

    path: Path
    name: str


def resolve(model: str) -> LocalModel:
    """Find `model`: an existing path, else an alias or a Hugging Face id, fetched if need be.

    Raises:
        ModelLoadError: it is none of them, or cannot be fetched.
    """
    path = _expanded(model)
    if model and path.exists():
        return LocalModel(path, path.resolve().name if path.is_dir() else path.stem)
    if model in ALIASES:
        return LocalModel(pull(model), model)
    if _HF_ID.fullmatch(model) and not model.endswith(".gguf"):
        return LocalModel(_snapshot(model), model)
    raise ModelLoadError(
        f"there is no model {model!r}: it is no existing folder or GGUF file, no alias ({', '.join(ALIASES)}), "
        "and no Hugging Face id (organization/name)"
    )


def _expanded(model: str) -> Path:
    try:
        return Path(model).expanduser()
    except RuntimeError:  # a ~user that does not exist
        return Path(model)


def _snapshot(model: str) -> Path:
    """Fetch the files we read of a Hugging Face repository, or find them in its cache."""
    # It takes a while to import, and most models come from elsewhere.
    import httpx
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=_HF_FILES))
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(
            f"there is no file, folder or alias {model!r} (aliases: {', '.join(ALIASES)}), and it could not be "
            f"fetched from Hugging Face: {reason}"
        ) from error
