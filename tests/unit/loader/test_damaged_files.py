"""Files that are cut or damaged somewhere end in one sentence, never in a traceback of another kind."""

import contextlib
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sagellm_engine.loader import open_checkpoint
from sagellm_schemas import ModelLoadError

from .test_quantized_checkpoints import CASES, quantize_folder

Make = Callable[..., Path]

# The files differ in their content alone, which each example writes anew.
each_writes_its_own = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FORMATS = [None, "gptq", "awq", "packed 4 bits with zeros", "bytes by rows"]


@pytest.fixture(params=FORMATS, ids=lambda name: name or "not quantized")
def weights(request: pytest.FixtureRequest, make_folder: Make) -> Path:
    """The safetensors file of a tiny model."""
    folder = make_folder()
    if request.param is not None:
        quantize_folder(folder, CASES[request.param])
    return folder / "model.safetensors"


def _read_everything(model: Path) -> None:
    """Open `model` and read all of it; what comes of a file is never much larger than the file."""
    checkpoint = open_checkpoint(str(model))
    weights = sum(math.prod(weight.shape) for _, weight in checkpoint.tensors())
    assert weights < 64 * sum(file.stat().st_size for file in model.iterdir())


def test_weights_cut_anywhere_are_refused(weights: Path) -> None:
    whole = weights.read_bytes()

    @each_writes_its_own
    @given(part=st.floats(0, 1, exclude_max=True))
    def cut(part: float) -> None:
        weights.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(ModelLoadError, match="damaged or incomplete"):
            _read_everything(weights.parent)

    cut()


def test_a_damaged_header_is_refused_or_harmless(weights: Path) -> None:
    whole = weights.read_bytes()
    header_bytes = 8 + struct.unpack_from("<Q", whole)[0]

    @each_writes_its_own
    @given(position=st.integers(0, header_bytes - 1), value=st.integers(0, 255))
    def damage(position: int, value: int) -> None:
        content = bytearray(whole)
        content[position] = value
        weights.write_bytes(content)
        with contextlib.suppress(ModelLoadError):
            _read_everything(weights.parent)

    damage()


def test_a_header_that_lies_about_one_tensor_is_refused_or_harmless(weights: Path) -> None:
    whole = weights.read_bytes()
    size = struct.unpack_from("<Q", whole)[0]
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    names = sorted(load_file(weights))
    numbers = st.sampled_from([0, 1, 2, 3, 8, 32, 2**31, 2**40, 2**63 - 1])

    @each_writes_its_own
    @given(
        name=st.sampled_from(names),
        dtype=st.sampled_from([None, "I8", "I32", "BF16", "F64", "BOOL", "F8_E4M3"]),
        shape=st.none() | st.lists(numbers, max_size=3),
        offsets=st.none() | st.lists(numbers, min_size=2, max_size=2),
    )
    def lie(name: str, dtype: str | None, shape: list[int] | None, offsets: list[int] | None) -> None:
        given_values = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        changed = header[name] | {key: value for key, value in given_values.items() if value is not None}
        text = json.dumps(header | {name: changed}).encode()
        weights.write_bytes(struct.pack("<Q", len(text)) + text + data)
        with contextlib.suppress(ModelLoadError):
            _read_everything(weights.parent)

    lie()


def test_a_damaged_quantization_config_is_refused_or_harmless(weights: Path) -> None:
    file = weights.parent / "config.json"
    config = json.loads(file.read_text())
    keys = st.sampled_from(
        [*config.get("quantization_config", {}), "quant_method", "bits", "group_size", "config_groups", "format"]
    )
    odd = st.sampled_from(
        [None, True, 0, -1, 3, 2**70, 1.5, "", "4", "gptq", [], [1], {}, {"group_0": {}}, {"a": 1}]
    )

    @each_writes_its_own
    @given(changes=st.dictionaries(keys, odd, min_size=1, max_size=3))
    def damage(changes: dict[str, object]) -> None:
        quantization = config.get("quantization_config", {}) | changes
        file.write_text(json.dumps(config | {"quantization_config": quantization}))
        with contextlib.suppress(ModelLoadError):
            _read_everything(weights.parent)

    damage()
