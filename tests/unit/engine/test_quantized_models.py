"""Models whose weights are quantized, from the settings to the answer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.loader import open_checkpoint
from sagellm_engine.loader.on_load import quantize_on_load
from sagellm_engine.text_score import score_text
from sagellm_engine.weights import GroupQuantized
from sagellm_schemas import SettingsError

from .conftest import prompts_of

Build = Callable[..., Engine]


@pytest.mark.parametrize("executor", ["torch", "auto"])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_model_rounded_on_load_predicts_as_one_with_the_rounded_weights(
    engine_of: Build, tiny: Path, quantization: str, executor: str
) -> None:
    checkpoint = open_checkpoint(str(tiny))
    rounded = {
        name: weight.dequantize() if isinstance(weight, GroupQuantized) else weight
        for name, weight in quantize_on_load(checkpoint, quantization)
    }
    checkpoint.tensors = lambda: iter(rounded.items())
    config = EngineConfig(model=str(tiny), num_blocks=80, block_size=4, executor="torch")
    plain, quantized = Engine(config, checkpoint), engine_of(quantization=quantization, executor=executor)
    [token_ids] = prompts_of(120)
    ours, theirs = (
        score_text(engine.runner.executor, token_ids, prefix=[], window_tokens=160, block_size=4)
        for engine in (quantized, plain)
    )
    if executor == "torch":
        assert ours.losses == pytest.approx(theirs.losses, abs=1e-3)
    assert ours.perplexity == pytest.approx(theirs.perplexity, rel=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization": "int3"}, "quantization must be one of int8, int4; got 'int3'"),
        ({"quantization": ""}, "quantization must be one of int8, int4"),
        ({"max_model_len": 161}, "max_model_len is 161, but the model's context is 160 tokens"),
    ],
)
def test_what_cannot_run_is_refused_before_any_weight_is_read(
    tiny: Path, options: dict[str, object], words: str
) -> None:
    checkpoint = open_checkpoint(str(tiny))

    def read() -> None:
        raise AssertionError("weights were read")

    checkpoint.tensors = read
    with pytest.raises(SettingsError, match=words):
        Engine(EngineConfig(model=str(tiny), **options), checkpoint)


def test_a_quantized_model_is_not_quantized_again(tiny: Path) -> None:
    checkpoint = open_checkpoint(str(tiny))
    checkpoint.quantization = "GPTQ"
    with pytest.raises(SettingsError, match=r"quantized already \(GPTQ\)"):
        Engine(EngineConfig(model=str(tiny), quantization="int8"), checkpoint)
