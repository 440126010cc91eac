"""A model written for other engines."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoTokenizer, LlamaForCausalLM

from sagellm.cli.bench.hf_folder import write_hf_folder
from sagellm_engine.loader import open_checkpoint

TOKEN_IDS = torch.tensor([[5, 9, 200, 17]])


def test_transformers_reads_a_gguf_model_written_as_a_folder(
    make_gguf: Callable[..., Path], llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(str(make_gguf()))
    write_hf_folder(checkpoint, tmp_path / "hf", "float32")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(TOKEN_IDS).logits, llama.eval()(TOKEN_IDS).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    assert tokenizer.eos_token == checkpoint.eos_token
    assert theirs.generation_config.eos_token_id == checkpoint.eos_token_ids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_quantized_model_is_written_in_the_type_asked_for(
    make_gguf: Callable[..., Path], llama: LlamaForCausalLM, tmp_path: Path, dtype: torch.dtype
) -> None:
    name = str(dtype).removeprefix("torch.")
    write_hf_folder(open_checkpoint(str(make_gguf(kind=Kind.Q8_0))), tmp_path / "hf", name)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype="auto")
    assert theirs.dtype == dtype
    ours = llama.model.layers[0].mlp.gate_proj.weight
    assert (theirs.model.layers[0].mlp.gate_proj.weight.float() - ours).abs().max() < 1e-3
