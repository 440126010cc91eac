"""From the name a user gives to an opened model."""

from sagellm_schemas import ModelLoadError

from .checkpoint import Checkpoint
from .resolve import LocalModel, resolve


def open_checkpoint(model: str) -> Checkpoint:
    """Open `model`: a folder with safetensors, a .gguf file, an alias, or a Hugging Face id.

    Everything that can be known without reading the weights has been checked when this returns.

    Raises:
        ModelLoadError: it cannot be found, fetched, read or run; one sentence says why and what to do.
    """
    # The readers need torch, which a command that only pulls a model should not wait for.
    from .expected_tensors import check_tensors

    try:
        checkpoint = _open(resolve(model))
    except OSError as error:  # no permission, a failing disk, a name too long
        raise ModelLoadError(f"model {model!r} cannot be read: {error}") from error
    check_tensors(checkpoint)
    return checkpoint


def _open(local: LocalModel) -> Checkpoint:
    from .gguf_file import GgufFile
    from .safetensors_folder import SafetensorsFolder

    if local.path.is_dir():
        return SafetensorsFolder(local.path, local.name)
    if local.path.suffix == ".safetensors":
        raise ModelLoadError(f"{local.path} is a file of weights; give the folder it is in")
    return GgufFile(local.path, local.name)
