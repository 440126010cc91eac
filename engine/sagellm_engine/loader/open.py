"""From the name a user gives to an opened model."""

from pathlib import Path

from sagellm_schemas import ModelLoadError

from .checkpoint import Checkpoint


def open_checkpoint(model: str) -> Checkpoint:
    """Open `model`: a folder with safetensors, a .gguf file, an alias, or a Hugging Face id.

    Raises:
        ModelLoadError: it cannot be found, fetched, read or run; one sentence says why and what to do.
    """
    # The readers need torch, which a command that only pulls a model should not wait for.
    from .gguf_file import GgufFile
    from .safetensors_folder import SafetensorsFolder

    path = Path(model)
    if path.is_dir():
        return SafetensorsFolder(path, path.name)
    if path.is_file():
        return GgufFile(path, path.stem)
    raise ModelLoadError(f"there is no model {model!r}")
