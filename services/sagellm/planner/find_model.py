"""From what the user calls a model to its shape: a folder, a `config.json`, a size, or a Hugging Face id."""

import re
from pathlib import Path

import msgspec

from sagellm_schemas import ModelLoadError

from .hf_config import shape_from_hf
from .model_shape import ModelShape
from .typical import typical

_HF_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_model(model: str) -> ModelShape:
    """The shape of `model`.

    Raises:
        InvalidRequest: a size that no model has.
        ModelLoadError: there is no such model, or its config cannot be used.
    """
    path = Path(model)
    if model and path.is_dir():
        return _read(path / "config.json", path.resolve().name)
    if model and path.is_file():
        return _read(path, path.resolve().parent.name if path.name == "config.json" else path.stem)
    shape = typical(model)
    if shape is not None:
        return shape
    if _HF_ID.fullmatch(model) and not model.endswith(".json"):
        return _read(_fetched(model), model)
    raise ModelLoadError(
        f"there is no model {model!r}: give a folder with a config.json, a config.json, a Hugging Face id "
        "(organization/name), or a size such as 8B or 8x7B"
    )


def servable(model: str) -> str:
    """What an engine can be given for `model`: the folder of a `config.json`; MODEL to be filled in for a size."""
    path = Path(model)
    if path.exists():
        return str(path.parent if path.is_file() else path)
    return model if _HF_ID.fullmatch(model) else "MODEL"


def _read(path: Path, name: str) -> ModelShape:
    try:
        config = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ModelLoadError(f"{path} is no JSON: {error}") from None
    return shape_from_hf(config, name)


def _fetched(model: str) -> Path:
    """Its `config.json`, from the local cache or else from Hugging Face."""
    import httpx
    from huggingface_hub import hf_hub_download

    try:
        try:
            return Path(hf_hub_download(model, "config.json", local_files_only=True))
        except (OSError, ValueError):  # not in the cache
            return Path(hf_hub_download(model, "config.json"))
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(
            f"the config of {model} is not in the cache and could not be fetched from Hugging Face: {reason}; "
            "give a folder with a config.json, or a size such as 8B"
        ) from error
