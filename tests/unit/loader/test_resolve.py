from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from sagellm_engine.loader import ALIASES, open_checkpoint, resolve
from sagellm_schemas import ModelLoadError


def test_an_existing_path_goes_before_an_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alias = next(iter(ALIASES))
    (tmp_path / alias).mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(alias).path == Path(alias)


def test_a_folder_is_named_after_itself_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-llama").mkdir()
    monkeypatch.chdir(tmp_path / "my-llama")
    assert resolve(".").name == "my-llama"
    assert resolve(f"{tmp_path}/my-llama/").name == "my-llama"


@pytest.mark.parametrize(
    "model", ["", "gpt-9", "a/b/c", "missing.gguf", "models/missing.gguf", "../nowhere/", "~nobody-here/model"]
)
def test_a_name_that_is_nothing_says_what_was_tried_and_lists_the_aliases(model: str) -> None:
    with pytest.raises(ModelLoadError, match="no existing folder or GGUF file, no alias") as caught:
        resolve(model)
    assert all(alias in caught.value.message for alias in ALIASES)


def test_a_hugging_face_id_is_fetched_without_pickles_and_served_under_its_id(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    asked: list[object] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert open_checkpoint("some-org/tiny-llama").name == "some-org/tiny-llama"
    assert asked == [("some-org/tiny-llama", ["*.json", "*.jinja", "model*.safetensors"])]


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("cannot reach the hub\nand a stack of details"),
        OSError("cannot reach the hub"),
        ValueError("cannot reach the hub"),
    ],
)
def test_a_hub_that_does_not_answer_is_one_clear_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelLoadError, match=r"could not be fetched from Hugging Face: cannot reach the hub$"):
        resolve("some-org/tiny-llama")


def test_a_file_of_weights_alone_is_refused_with_the_way_out(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(ModelLoadError, match="give the folder it is in"):
        open_checkpoint(str(make_folder() / "model.safetensors"))


def test_a_name_too_long_for_the_file_system_is_one_clear_sentence() -> None:
    with pytest.raises(ModelLoadError, match="cannot be read"):
        open_checkpoint("x" * 5000)
