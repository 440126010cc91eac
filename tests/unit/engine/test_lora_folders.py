"""An adapter that cannot run as it was trained is refused in one sentence, before anything is served."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from sagellm_engine.config import read_hf_config
from sagellm_engine.engine import Engine
from sagellm_engine.execution.adaptable import check_adaptable
from sagellm_engine.lora import Adapter, load_adapter
from sagellm_engine.models.decoder import Experts
from sagellm_schemas import ModelLoadError

from .adapters import write_adapter

PREFIX = "base_model.model.model.layers."


@pytest.fixture
def folder(tmp_path: Path, reference: LlamaForCausalLM) -> Path:
    return write_adapter(tmp_path / "adapter", reference)


@pytest.fixture(scope="module")
def load(tiny: Path) -> Callable[[Path], Adapter]:
    config = read_hf_config(json.loads((tiny / "config.json").read_text()))
    return lambda folder: load_adapter("poet", folder, config)


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "has peft_type 'IA3'; only 'LORA' is supported"),
        ({"bias": "all"}, "has bias 'all'; only 'none' is supported"),
        ({"modules_to_save": ["lm_head"]}, r"has modules_to_save \['lm_head'\], which is not supported"),
        ({"use_dora": True}, "has use_dora True, which is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "which changes the model's own weights"),
        ({"r": 0}, "has a rank below 1"),
        ({"r": "four"}, "cannot be used: Expected `int`, got `str`"),
        ({"rank_pattern": {"(": 4}}, r"has the pattern '\(', which is none"),
        ({"r": 300}, "has rank 300; the highest that is supported is 256"),
        ({"r": 8}, r"down_proj.lora_A.weight has shape \(4, 64\), but this model with rank 8 needs \(8, 64\)"),
        ({"target_modules": ["q_proj", "lm_head"]}, "has no tensor for lm_head, which its target_modules name"),
    ],
)
def test_what_its_config_asks_for_and_is_not_run_is_named(
    folder: Path, load: Callable[[Path], Adapter], fields: dict[str, Any], message: str
) -> None:
    change_config(folder, **fields)
    with pytest.raises(ModelLoadError, match="adapter 'poet' cannot be loaded: .*" + message):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({f"{PREFIX}1.mlp.up_proj.lora_B.weight": torch.zeros(63, 4)}),
            r"layers.1.mlp.up_proj.lora_B.weight has shape \(63, 4\), but this model with rank 4 needs \(64, 4\)",
        ),
        (lambda t: t.pop(f"{PREFIX}2.mlp.down_proj.lora_A.weight"), "down_proj.lora_A.weight is missing"),
        (
            lambda t: t.update({f"{PREFIX}9.mlp.up_proj.lora_A.weight": torch.zeros(4, 48)}),
            "changes model.layers.9.mlp.up_proj, but the model has 3 layers",
        ),
        (
            lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 48)}),
            "changes lm_head; only these modules of a layer can be changed: self_attn.q_proj,",
        ),
        (
            lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 9)}),
            "has tensor base_model.model.model.embed_tokens.lora_embedding_A, which is no low-rank part",
        ),
        (
            lambda t: t.update({f"{PREFIX}0.mlp.up_proj.lora_A.weight": torch.full((4, 48), torch.nan)}),
            "has numbers that are not finite",
        ),
        (
            lambda t: t.update({f"{PREFIX}0.mlp.up_proj.lora_A.weight": torch.zeros(4, 48, dtype=torch.int8)}),
            "is stored as I8; supported are F32, F16, BF16",
        ),
        (lambda t: t.clear(), "has no tensors"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_named_with_their_shapes(
    folder: Path,
    load: Callable[[Path], Adapter],
    change: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    change_tensors(folder, change)
    with pytest.raises(ModelLoadError, match=message):
        load(folder)


def test_a_truncated_file_is_told(folder: Path, load: Callable[[Path], Adapter]) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match=r"adapter_model\.safetensors is damaged or incomplete"):
        load(folder)


def test_missing_files_are_told(folder: Path, load: Callable[[Path], Adapter]) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match="pickled weights can run code and are never opened here"):
        load(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ModelLoadError, match=r"has no adapter_config\.json"):
        load(folder)
    with pytest.raises(ModelLoadError, match="there is no folder"):
        load(folder / "nowhere")


def test_a_feed_forward_part_does_not_fit_a_layer_with_experts(
    folder: Path, load: Callable[[Path], Adapter], engine_of: Callable[..., Engine]
) -> None:
    first, second, third = engine_of(executor="torch").runner.executor._decoder.layers
    sparse = replace(second, mlp=Experts(second.mlp.down, [second.mlp], top_k=1, normalize=False))
    mixed = [first, sparse, third]
    with pytest.raises(
        ModelLoadError, match="it changes the feed-forward part of layer 1, where this model has exp"
    ):
        check_adaptable(mixed, [load(folder)])
    change_config(folder, target_modules="all-linear")
    change_tensors(folder, lambda t: [t.pop(name) for name in list(t) if ".mlp." in name])
    check_adaptable(mixed, [load(folder)])


def test_an_engine_does_not_start_with_a_bad_adapter(folder: Path, engine_of: Callable[..., Engine]) -> None:
    change_config(folder, peft_type="IA3")
    with pytest.raises(ModelLoadError, match="adapter 'poet' cannot be loaded"):
        engine_of(adapters={"poet": str(folder)})


def test_all_linear_targets_and_patterns_of_layers_are_read(folder: Path, load: Callable[[Path], Adapter]) -> None:
    change_config(folder, target_modules="all-linear")
    layers = load(folder).layers
    assert [set(layer) for layer in layers] == [{"qkv", "attention_out", "gate_up", "down"}] * 3
    assert sorted(part.first_row for part in layers[0]["qkv"]) == [0, 96, 128]
    change_tensors(folder, lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name])
    assert load(folder).layers[1] == {}


def test_fused_modules_and_half_precision_are_read(folder: Path, load: Callable[[Path], Adapter]) -> None:
    change_config(folder, target_modules=["qkv_proj", "gate_up_proj"])

    def fuse(tensors: dict[str, torch.Tensor]) -> None:
        tensors.clear()
        for name, size in (("self_attn.qkv_proj", 160), ("mlp.gate_up_proj", 128)):
            tensors[f"{PREFIX}0.{name}.lora_A.weight"] = torch.ones(4, 48, dtype=torch.bfloat16)
            tensors[f"{PREFIX}0.{name}.lora_B.weight"] = torch.ones(size, 4, dtype=torch.float16)

    change_tensors(folder, fuse)
    [part] = load(folder).layers[0]["qkv"]
    assert (part.first_row, part.a.dtype, part.b.dtype) == (0, torch.float32, torch.float32)
    assert torch.equal(part.b, torch.full((160, 4), 2.0))  # alpha 8, rank 4
