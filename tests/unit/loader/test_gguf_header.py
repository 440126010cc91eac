import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagellm_engine.loader import open_checkpoint
from sagellm_schemas import ModelLoadError

# The files differ in their content alone, which each example writes anew.
each_writes_its_own = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 and so on", "not a GGUF file"),
        (b"GGUF\x01\x00\x00\x00" + bytes(64), "version 1"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, "damaged or incomplete"),
    ],
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelLoadError, match=message):
        open_checkpoint(str(tmp_path / "x.gguf"))


@each_writes_its_own
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(make_gguf: Callable[..., Path], part: float) -> None:
    path = make_gguf()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ModelLoadError):
        open_checkpoint(str(path))


@each_writes_its_own
@given(position=st.integers(4, 12000), value=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_harmless_but_never_a_crash(
    make_gguf: Callable[..., Path], position: int, value: int
) -> None:
    path = make_gguf()
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(content)
    with contextlib.suppress(ModelLoadError):
        for _name, weight in open_checkpoint(str(path)).tensors():
            assert all(weight.shape)
