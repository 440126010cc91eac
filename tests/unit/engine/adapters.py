"""Random LoRA adapters as the peft library writes them, and the models that they make of a model."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
STRENGTH = 0.2
"""Enough that greedy answers differ from the model's own."""


def write_adapter(
    folder: Path,
    model: LlamaForCausalLM,
    targets: tuple[str, ...] = ATTENTION + MLP,
    seed: int = 0,
    **options: Any,
) -> Path:
    """A folder with an adapter of all `targets` of `model`; `options` are fields of its config."""
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": list(targets),
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
    } | options
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.endswith(targets):
            rank = rank_of(config, name)
            a = torch.randn(rank, module.in_features, generator=generator) * module.in_features**-0.5
            b = torch.randn(module.out_features, rank, generator=generator) * STRENGTH
            tensors[f"base_model.model.{name}.lora_A.weight"] = a
            tensors[f"base_model.model.{name}.lora_B.weight"] = b
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def merged(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """A copy of `model` with the adapter in `folder` added to its weights: W + B · A · scaling."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    changed = copy.deepcopy(model)
    for name, module in changed.named_modules():
        a = tensors.get(f"base_model.model.{name}.lora_A.weight")
        if a is not None:
            rank = rank_of(config, name)
            alpha = config.get("alpha_pattern", {}).get(name.rpartition(".")[2], config["lora_alpha"])
            scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
            b = tensors[f"base_model.model.{name}.lora_B.weight"]
            with torch.no_grad():
                module.weight += (b @ a) * scaling
    return changed


def rank_of(config: dict[str, Any], module: str) -> int:
    found: int = config.get("rank_pattern", {}).get(module.rpartition(".")[2], config["r"])
    return found


def greedy(model: LlamaForCausalLM, prompt: list[int], tokens: int = 24) -> list[int]:
    """What `model` answers in transformers."""
    answer = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return answer[0, len(prompt) :].tolist()
