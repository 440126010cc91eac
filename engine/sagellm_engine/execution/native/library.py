"""The C++ kernels as a library: compiled once for this CPU with the system's compiler, then kept in the cache."""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from importlib import resources
from pathlib import Path

from sagellm_engine.loader.cache import cache_folder
from sagellm_schemas import EngineError

log = logging.getLogger(__name__)

_FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-pthread",
    "-w",
)
_TIMEOUT_S = 300


class KernelsUnavailableError(EngineError):
    """There is no C++ compiler here, or it cannot compile the kernels; the message says which."""


def load_library() -> ctypes.CDLL:
    """The kernels, compiled if they are not in the cache.

    Raises:
        KernelsUnavailableError: there is no compiler, or it failed.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise KernelsUnavailableError("there is no C++ compiler (c++, g++ or clang++)")
    with resources.as_file(resources.files(__package__) / "kernels") as folder:
        path = _built(compiler, folder)
    return _declared(ctypes.CDLL(str(path)))


def _built(compiler: str, folder: Path) -> Path:
    """Where the library is, after compiling it if need be."""
    sources = b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".h", ".cpp"))
    # What the compiler knows of itself and of this CPU: a home folder may be shared by several machines.
    macros = _output([compiler, *_FLAGS[:3], "-dM", "-E", "-x", "c++", os.devnull])
    digest = hashlib.sha256(sources + " ".join(_FLAGS).encode() + macros).hexdigest()[:16]
    path = cache_folder() / "kernels" / digest / "kernels.so"
    if path.exists():
        return path
    started_s = time.perf_counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            built = Path(scratch) / path.name
            _output([compiler, *_FLAGS, str(folder / "decoder.cpp"), "-o", str(built)])
            built.replace(path)
    except OSError as error:
        raise KernelsUnavailableError(f"the compiled kernels cannot be kept in {path.parent}: {error}") from error
    log.info("compiled the CPU kernels in %.1f s", time.perf_counter() - started_s)
    return path


def _output(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        raise KernelsUnavailableError(f"{command[0]} failed: {said[0] if said else error}") from error


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    declared: dict[str, tuple[object, list[object]]] = {
        "sage_team": (pointer, [integer]),
        "sage_end_team": (None, [pointer]),
        "sage_decoder": (pointer, [pointer, pointer]),
        "sage_end_decoder": (None, [pointer]),
        "sage_adapt": (None, [pointer, pointer, integer]),
        "sage_forward": (None, [pointer, pointer]),
        "sage_packed_bytes": (ctypes.c_int64, [integer] * 3),
        "sage_pack_dense": (None, [integer, pointer, integer, integer, pointer]),
        "sage_pack_quantized": (
            None,
            [integer, pointer, pointer, pointer, integer, ctypes.c_float, integer, integer, pointer],
        ),
    }
    for name, (result, arguments) in declared.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
