"""A family's GGUF file answers what the same weights answer in transformers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from sagellm_engine.loader import open_checkpoint

from .conftest import SavedModel, engine_of
from .gguf_writing import write_gguf
from .test_families import TOLERANCE, compute
from .tiny_models import TINY_MODELS, TinyModel, prompt_of


def _changed(name: str, **options: object) -> TinyModel:
    """The tiny model `name`, without what its GGUF file could not say."""
    [tiny] = [tiny for tiny in TINY_MODELS if tiny.name == name]
    return replace(tiny, options={**tiny.options, **options})


FILES = [
    (_changed("llama2"), "llama"),
    (_changed("llama-linear"), "llama"),
    (_changed("llama-yarn"), "llama"),
    (_changed("mistral"), "llama"),
    (_changed("mixtral"), "llama"),
    (_changed("qwen2", use_sliding_window=False), "qwen2"),
    (_changed("qwen3"), "qwen3"),
    (_changed("qwen3-moe", decoder_sparse_step=1, mlp_only_layers=[]), "qwen3moe"),
    (_changed("gemma2", query_pre_attn_scalar=10), "gemma2"),
    (_changed("gemma3", query_pre_attn_scalar=10), "gemma3"),
    (_changed("phi3"), "phi3"),
]


@pytest.mark.parametrize(("tiny", "architecture"), FILES, ids=lambda value: getattr(value, "name", value))
@torch.inference_mode()
def test_scores_of_a_gguf_file_are_those_of_transformers(
    tiny: TinyModel, architecture: str, executor_name: str, tmp_path: Path
) -> None:
    model = tiny.make()
    saved = SavedModel(tiny, tmp_path / "tiny.gguf", model)
    write_gguf(model, architecture, saved.folder)
    prompt = prompt_of(saved.longest_prompt)
    found = compute(engine_of(saved, executor_name).runner.executor, prompt, list(range(30)), 40)
    torch.testing.assert_close(found, saved.logits(prompt), rtol=0, atol=TOLERANCE)


def test_quantized_experts_are_read_one_by_one(tmp_path: Path) -> None:
    tiny = _changed("mixtral", hidden_size=64, intermediate_size=96, num_attention_heads=4)
    model = tiny.make()
    write_gguf(model, "llama", tmp_path / "tiny.gguf", Kind.Q8_0)
    found = dict(open_checkpoint(str(tmp_path / "tiny.gguf")).tensors())
    stacked = model.model.layers[1].mlp.experts
    for number in range(5):
        for projection, expected in (
            ("gate_proj", stacked.gate_up_proj[number, :96]),
            ("up_proj", stacked.gate_up_proj[number, 96:]),
            ("down_proj", stacked.down_proj[number]),
        ):
            weight = found[f"model.layers.1.mlp.experts.{number}.{projection}.weight"]
            values = weight if isinstance(weight, torch.Tensor) else weight.dequantize()
            torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-2)
