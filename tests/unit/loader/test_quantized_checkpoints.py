"""Checkpoints quantized by others, written here from the public definitions of their formats."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig
from sagellm_engine.loader import open_checkpoint
from sagellm_engine.text_score import TextScore, score_text
from sagellm_engine.weights import GroupQuantized
from sagellm_schemas import ModelLoadError

Tensors = dict[str, torch.Tensor]
Make = Callable[..., Path]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass
class Rounded:
    """A matrix (out, in) as scale * (value - zero), `values` from 0."""

    values: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    group_of: torch.Tensor
    bits: int

    @property
    def weight(self) -> torch.Tensor:
        scales, zeros = self.scales.float()[:, self.group_of], self.zeros[:, self.group_of]
        return scales * (self.values - zeros).float()


def round_matrix(
    weight: torch.Tensor, bits: int, group_size: int, *, symmetric: bool, shuffled: bool = False
) -> Rounded:
    out_features, in_features = weight.shape
    size = in_features if group_size == -1 else group_size
    group_of = torch.arange(in_features) // size
    if shuffled:
        group_of = group_of[torch.randperm(in_features, generator=torch.Generator().manual_seed(3))]
    largest = 2**bits - 1
    scales = torch.empty(out_features, in_features // size, dtype=torch.float16)
    zeros = torch.empty(out_features, in_features // size, dtype=torch.int64)
    for group in range(in_features // size):
        part = weight[:, group_of == group]
        if symmetric:
            scales[:, group] = part.abs().amax(1) * 2 / largest
            zeros[:, group] = 2 ** (bits - 1)
        else:
            low = part.amin(1).clamp(max=0)
            scales[:, group] = (part.amax(1).clamp(min=0) - low) / largest
            zeros[:, group] = (-low / scales[:, group].float()).round().long().clamp(1, largest)
    values = (weight / scales.float()[:, group_of] + zeros[:, group_of]).round().long().clamp(0, largest)
    return Rounded(values, scales, zeros, group_of, bits)


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """(rows, n) → I32 (rows, n * bits / 32), the first value in the lowest bits."""
    words = []
    for row in values.tolist():
        for begin in range(0, len(row), 32 // bits):
            word = sum(value << (bits * i) for i, value in enumerate(row[begin : begin + 32 // bits]))
            words.append(word - 2**32 if word >= 2**31 else word)
    return torch.tensor(words, dtype=torch.int32).reshape(len(values), -1)


@dataclass(frozen=True)
class Case:
    """One way to quantize: the config it declares, and how a matrix becomes tensors."""

    config: dict[str, Any]
    tensors: Callable[[Rounded], Tensors]
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    shuffled: bool = False


def gptq(version: int) -> Callable[[Rounded], Tensors]:
    def tensors(rounded: Rounded) -> Tensors:
        zeros = rounded.zeros - 1 if version == 1 else rounded.zeros
        return {
            "qweight": pack(rounded.values, rounded.bits).T,
            "qzeros": pack(zeros.T, rounded.bits),
            "scales": rounded.scales.T,
            "g_idx": rounded.group_of.int(),
        }

    return tensors


def awq(rounded: Rounded) -> Tensors:
    def interleave(values: torch.Tensor) -> torch.Tensor:
        return pack(values.T.reshape(values.shape[1], -1, 8)[:, :, list(AWQ_ORDER)].flatten(1), 4)

    return {
        "qweight": interleave(rounded.values),
        "qzeros": interleave(rounded.zeros),
        "scales": rounded.scales.T,
    }


def packed(rounded: Rounded) -> Tensors:
    tensors = {
        "weight_packed": pack(rounded.values, rounded.bits),
        "weight_scale": rounded.scales.bfloat16(),
        "weight_shape": torch.tensor(rounded.values.shape),
    }
    if bool((rounded.zeros != 2 ** (rounded.bits - 1)).any()):
        tensors["weight_zero_point"] = pack(rounded.zeros.T, rounded.bits).T
    return tensors


def bytewise(rounded: Rounded) -> Tensors:
    tensors = {"weight": (rounded.values - 128).to(torch.int8), "weight_scale": rounded.scales}
    if bool((rounded.zeros != 128).any()):
        tensors["weight_zero_point"] = (rounded.zeros - 128).to(torch.int8)
    return tensors


def ct_config(layout: str, bits: int, **changes: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
    group = {"targets": ["Linear"], "weights": weights | changes, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "sparsity_config": {"format": "dense"},
        "kv_cache_scheme": None,
    }


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
CASES = {
    "gptq": Case(GPTQ, gptq(1), symmetric=True),
    "gptq with zeros": Case(GPTQ | {"sym": False}, gptq(1)),
    "gptq version 2": Case(GPTQ | {"checkpoint_format": "gptq_v2"}, gptq(2)),
    "gptq in 8 bits": Case(GPTQ | {"bits": 8}, gptq(1), bits=8),
    "gptq by rows": Case(GPTQ | {"group_size": -1}, gptq(1), group_size=-1),
    "awq": Case(AWQ, awq),
    "awq under older keys": Case({"quant_method": "awq", "w_bit": 4, "q_group_size": 32, "version": "GEMM"}, awq),
    "packed 4 bits": Case(ct_config("pack-quantized", 4), packed, symmetric=True),
    "packed 4 bits with zeros": Case(ct_config("pack-quantized", 4), packed),
    "packed 8 bits": Case(ct_config("pack-quantized", 8), packed, bits=8),
    "bytes by rows": Case(
        ct_config("int-quantized", 8, strategy="channel", group_size=None),
        bytewise,
        bits=8,
        group_size=-1,
        symmetric=True,
    ),
    "bytes in groups with zeros": Case(ct_config("naive-quantized", 8), bytewise, bits=8),
}


def quantize_folder(folder: Path, case: Case) -> Tensors:
    """Quantize every projection of the model in `folder`; returns the weights they now stand for."""
    tensors, expected = load_file(folder / "model.safetensors"), {}
    for name, weight in list(tensors.items()):
        expected[name] = weight
        if "_proj.weight" in name:
            rounded = round_matrix(
                weight, case.bits, case.group_size, symmetric=case.symmetric, shuffled=case.shuffled
            )
            if case.tensors is packed:
                rounded.scales = rounded.scales.bfloat16()
            expected[name] = rounded.weight
            del tensors[name]
            stored = case.tensors(rounded)
            tensors |= {f"{name.removesuffix('weight')}{key}": t.contiguous() for key, t in stored.items()}
    save_file(tensors, folder / "model.safetensors")
    declare(folder, case.config)
    return expected


def declare(folder: Path, quantization: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_weights_are_exactly_what_the_format_says_and_stay_quantized(make_folder: Make, case: Case) -> None:
    folder = make_folder()
    expected = quantize_folder(folder, case)
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.shapes() == {name: tuple(weight.shape) for name, weight in expected.items()}
    found = dict(checkpoint.tensors())
    assert found.keys() == expected.keys()
    assert checkpoint.packed_bits() == {
        name: case.bits + 32 / found[name].group_size for name in expected if "_proj.weight" in name
    }
    for name, weight in expected.items():
        if "_proj.weight" in name:
            assert isinstance(found[name], GroupQuantized)
            assert found[name].bits == case.bits
            assert torch.equal(found[name].dequantize(), weight), name
        else:
            assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("executor", ["torch", "auto"])
@pytest.mark.parametrize("case", ["gptq", "gptq by rows", "awq", "packed 8 bits", "bytes by rows"])
def test_the_engine_predicts_as_with_the_weights_they_stand_for(
    make_folder: Make, case: str, executor: str
) -> None:
    folder = make_folder()
    expected = quantize_folder(folder, CASES[case])
    plain = open_checkpoint(str(folder))
    plain.tensors = lambda: iter(expected.items())
    token_ids = torch.randint(0, 280, (100,), generator=torch.Generator().manual_seed(5)).tolist()

    def score(engine: Engine) -> TextScore:
        return score_text(engine.runner.executor, token_ids, prefix=[], window_tokens=128, block_size=16)

    theirs = score(Engine(EngineConfig(model=str(folder), num_blocks=8, executor="torch"), plain))
    ours = score(Engine(EngineConfig(model=str(folder), num_blocks=8, executor=executor)))
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-4 if executor == "torch" else 0.05)


def test_weights_in_the_order_of_their_activations_come_as_numbers_and_a_line_says_so(
    make_folder: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder()
    expected = quantize_folder(folder, Case(GPTQ | {"desc_act": True}, gptq(1), shuffled=True))
    checkpoint = open_checkpoint(str(folder))
    for name, weight in checkpoint.tensors():
        assert isinstance(weight, torch.Tensor)
        assert torch.equal(weight, expected[name]), name
    assert not checkpoint.packed_bits()
    assert "act-order" in caplog.text


def test_a_zero_of_0_that_was_stored_with_a_borrow_is_0_again(make_folder: Make) -> None:
    folder = make_folder()
    quantize_folder(folder, Case(GPTQ, gptq(1)))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj"
    zeros = torch.tensor([[0, 5, 0, 15, 1, 2, 3, 4] * 12] * 2)
    tensors[f"{name}.qzeros"] = (pack(zeros, 4).long() - 0x11111111).int()
    save_file(tensors, file)
    found = dict(open_checkpoint(str(folder)).tensors())[f"{name}.weight"]
    scales = tensors[f"{name}.scales"].float()
    assert torch.equal(found.minimums, -scales.T * zeros.T)


def test_modules_that_the_config_leaves_out_stay_as_they_are(make_folder: Make, llama: LlamaForCausalLM) -> None:
    folder = make_folder()
    quantize_folder(folder, CASES["awq"])
    file, name = folder / "model.safetensors", "model.layers.1.mlp.down_proj"
    tensors = load_file(file)
    for part in ("qweight", "qzeros", "scales"):
        del tensors[f"{name}.{part}"]
    original = llama.state_dict()[f"{name}.weight"]
    save_file(tensors | {f"{name}.weight": original}, file)
    assert torch.equal(dict(open_checkpoint(str(folder)).tensors())[f"{name}.weight"], original)


@pytest.mark.parametrize("targets", [[r"re:.*self_attn.*", r"re:.*mlp\..*_proj"], ["Linear"]])
def test_groups_name_their_modules_by_patterns_or_all_at_once(make_folder: Make, targets: list[str]) -> None:
    folder = make_folder()
    config = ct_config("pack-quantized", 4)
    config["config_groups"]["group_0"]["targets"] = targets
    quantize_folder(folder, Case(config, packed))
    assert isinstance(
        dict(open_checkpoint(str(folder)).tensors())["model.layers.0.self_attn.q_proj.weight"], GroupQuantized
    )


FP8 = ct_config("float-quantized", 8, type="float", strategy="channel")
W8A8 = ct_config("int-quantized", 8)
W8A8["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "type": "int", "dynamic": True}
SPARSE = ct_config("pack-quantized", 4) | {"sparsity_config": {"format": "sparse-24-bitmask"}}


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "with bitsandbytes, which is not supported"),
        ({"quant_method": "fp8"}, "with fp8, which is not supported"),
        ({"bits": 4}, "with an unnamed method"),
        (GPTQ | {"bits": 3}, "GPTQ to 3 bits"),
        (GPTQ | {"checkpoint_format": "marlin"}, "GPTQ in the marlin layout"),
        (AWQ | {"version": "gemv"}, "AWQ in the gemv layout"),
        (AWQ | {"zero_point": False}, "AWQ in the zero_point false layout"),
        (AWQ | {"bits": 8}, "AWQ to 8 bits"),
        (FP8, "compressed-tensors in the float-quantized format"),
        (W8A8, "compressed-tensors together with the activations"),
        (SPARSE, r"made sparse \(sparse-24-bitmask\)"),
        (ct_config("marlin-24", 4), "compressed-tensors in the marlin-24 format"),
        (ct_config("pack-quantized", 3), "compressed-tensors to int3 weights"),
        (ct_config("int-quantized", 8, strategy="block"), "by the strategy block"),
    ],
)
def test_other_methods_are_refused_by_name_with_the_list(
    make_folder: Make, quantization: dict[str, Any], message: str
) -> None:
    folder = make_folder()
    declare(folder, quantization)
    with pytest.raises(ModelLoadError, match=f"{message}.*supported are GPTQ, AWQ and compressed-tensors"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ("gptq", "which is no object"),
        (GPTQ | {"bits": "four"}, "cannot be read: Expected `int`"),
        ({"quant_method": "gptq", "bits": 4}, "missing required field `group_size`"),
        (GPTQ | {"group_size": 0}, "group_size 0"),
        (GPTQ | {"group_size": -7}, "group_size -7"),
        (GPTQ | {"group_size": 40}, "no whole number of groups of 40"),
        (GPTQ | {"group_size": 16}, r"has shape \(3, 8\), but the quantization config makes it \(6, 8\)"),
        (GPTQ | {"bits": 8}, "down_proj has 48 inputs, which is no whole number"),
        (ct_config("pack-quantized", 4) | {"config_groups": []}, "cannot be read"),
    ],
)
def test_a_config_that_does_not_fit_its_weights_is_refused(
    make_folder: Make, quantization: Any, message: str
) -> None:
    folder = make_folder()
    quantize_folder(folder, CASES["gptq"])
    declare(folder, quantization)
    with pytest.raises(ModelLoadError, match=message):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("targets", [["re:.*lm_head"], ["re:("]])
def test_a_target_that_finds_nothing_or_is_no_pattern_is_refused(make_folder: Make, targets: list[str]) -> None:
    folder = make_folder()
    config = ct_config("pack-quantized", 4)
    config["config_groups"]["group_0"]["targets"] = targets
    quantize_folder(folder, Case(config, packed))
    with pytest.raises(ModelLoadError, match=r"no group of the quantization config|no pattern"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("case", ["gptq", "awq", "packed 4 bits with zeros", "bytes by rows"])
def test_every_part_of_a_quantized_matrix_is_looked_for_and_checked(make_folder: Make, case: str) -> None:
    folder = make_folder()
    quantize_folder(folder, CASES[case])
    file, module = folder / "model.safetensors", "model.layers.1.self_attn.k_proj."
    tensors = load_file(file)
    optional = ("g_idx", "weight_zero_point", "weight_shape")
    for name in [name for name in tensors if name.startswith(module)]:
        if not name.endswith("shape"):
            save_file(tensors | {name: tensors[name].flatten()[:1]}, file)
            with pytest.raises(ModelLoadError, match=name.rsplit(".", 1)[0]):
                open_checkpoint(str(folder))
        if not name.endswith(optional):
            save_file({key: tensor for key, tensor in tensors.items() if key != name}, file)
            with pytest.raises(ModelLoadError, match=r"k_proj"):
                open_checkpoint(str(folder))


def test_groups_that_are_not_there_are_refused(make_folder: Make) -> None:
    folder = make_folder()
    quantize_folder(folder, CASES["gptq"])
    file, name = folder / "model.safetensors", "model.layers.1.self_attn.k_proj.g_idx"
    tensors = load_file(file)
    save_file(tensors | {name: torch.full_like(tensors[name], 7)}, file)
    with pytest.raises(ModelLoadError, match="names groups that the weights do not have"):
        dict(open_checkpoint(str(folder)).tensors())
