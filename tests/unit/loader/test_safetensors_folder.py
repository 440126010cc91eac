import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from sagellm_engine.loader import open_checkpoint
from sagellm_schemas import ModelLoadError

Make = Callable[..., Path]


@pytest.mark.parametrize("shard_size", ["1GB", "100KB"])
def test_weights_are_those_transformers_saved_sharded_or_not(
    make_folder: Make, llama: LlamaForCausalLM, shard_size: str
) -> None:
    folder = make_folder(shard_size=shard_size)
    assert (folder / "model.safetensors.index.json").exists() == (shard_size == "100KB")
    checkpoint = open_checkpoint(str(folder))
    expected = llama.state_dict()
    assert checkpoint.shapes() == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    found = dict(checkpoint.tensors())
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_bfloat16_and_tied_embeddings_stay_as_they_are(
    make_folder: Make, make_llama: Callable[..., LlamaForCausalLM]
) -> None:
    checkpoint = open_checkpoint(str(make_folder(make_llama(tie_word_embeddings=True).to(torch.bfloat16))))
    assert checkpoint.config.tie_word_embeddings
    assert checkpoint.config.dtype == "bfloat16"
    found = dict(checkpoint.tensors())
    assert "lm_head.weight" not in found
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_a_config_without_dtype_takes_that_of_the_weights(
    make_folder: Make, make_llama: Callable[..., LlamaForCausalLM]
) -> None:
    folder = make_folder(make_llama().to(torch.float16))
    _edit(folder / "config.json", dtype=None, torch_dtype=None)
    assert open_checkpoint(str(folder)).config.dtype == "float16"


def test_tensors_a_llama_does_not_use_are_left_out(make_folder: Make, llama: LlamaForCausalLM) -> None:
    folder = make_folder()
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    save_file(llama.state_dict() | extra, folder / "model.safetensors")
    assert dict(open_checkpoint(str(folder)).tensors()).keys() == llama.state_dict().keys()


def test_text_and_chat_come_from_the_tokenizer_files(make_folder: Make, tokenizer: Tokenizer) -> None:
    checkpoint = open_checkpoint(str(make_folder()))
    assert checkpoint.name == "tiny-llama"
    assert (checkpoint.bos_token, checkpoint.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert "im_start" in checkpoint.chat_template
    read = Tokenizer.from_buffer(checkpoint.tokenizer_json)
    assert read.encode("the cat").ids == tokenizer.encode("the cat").ids


def test_a_template_file_goes_before_the_config_and_the_default_before_other_templates(make_folder: Make) -> None:
    folder = make_folder()
    _edit(
        folder / "tokenizer_config.json",
        chat_template=[{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}],
    )
    assert open_checkpoint(str(folder)).chat_template == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert open_checkpoint(str(folder)).chat_template == "J"


def test_every_declared_end_token_stops_an_answer(make_folder: Make) -> None:
    folder = make_folder()
    _edit(folder / "generation_config.json", eos_token_id=[5, 6])
    _edit(folder / "config.json", eos_token_id=7)
    assert open_checkpoint(str(folder)).eos_token_ids == [5, 6, 7, 2]
    (folder / "generation_config.json").unlink()
    _edit(folder / "config.json", eos_token_id=None)
    _edit(folder / "tokenizer_config.json", chat_template="", eos_token=None)
    assert open_checkpoint(str(folder)).eos_token_ids == []


def test_a_tokenizer_that_does_not_name_its_end_takes_the_first_end_id(make_folder: Make) -> None:
    folder = make_folder()
    _edit(folder / "tokenizer_config.json", eos_token=None, bos_token=None)
    checkpoint = open_checkpoint(str(folder))
    assert (checkpoint.bos_token, checkpoint.eos_token) == ("", "<|im_end|>")


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "has no tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_naming_it(make_folder: Make, lost: str, message: str) -> None:
    folder = make_folder()
    (folder / lost).unlink()
    with pytest.raises(ModelLoadError, match=message):
        open_checkpoint(str(folder))


def test_pickled_weights_are_never_opened(make_folder: Make) -> None:
    folder = make_folder()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="convert them to safetensors"):
        open_checkpoint(str(folder))


def test_a_slow_tokenizer_alone_is_refused_with_the_way_out(make_folder: Make) -> None:
    folder = make_folder()
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    with pytest.raises(ModelLoadError, match=r"only tokenizer.model; save it with transformers"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe{}"])
def test_a_damaged_json_file_is_named(make_folder: Make, name: str, content: bytes) -> None:
    folder = make_folder()
    (folder / name).write_bytes(content)
    with pytest.raises(ModelLoadError, match=name):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("keep", [0, 7, 500, 0.5, -1])
def test_a_truncated_weight_file_is_refused(make_folder: Make, keep: float) -> None:
    file = make_folder() / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(ModelLoadError, match="damaged or incomplete"):
        open_checkpoint(str(file.parent))


def test_a_missing_shard_is_named(make_folder: Make) -> None:
    folder = make_folder(shard_size="100KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelLoadError, match=f"lacks {shard.name}"):
        open_checkpoint(str(folder))


def test_several_weight_files_without_an_index_are_refused(make_folder: Make) -> None:
    folder = make_folder(shard_size="100KB")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelLoadError, match=r"no model.safetensors.index.json"):
        open_checkpoint(str(folder))


def test_an_index_that_is_no_map_is_refused(make_folder: Make) -> None:
    folder = make_folder(shard_size="100KB")
    _edit(folder / "model.safetensors.index.json", weight_map=[1])
    with pytest.raises(ModelLoadError, match="no usable weight_map"):
        open_checkpoint(str(folder))


def test_tensors_that_do_not_fit_the_config_are_refused(make_folder: Make) -> None:
    folder = make_folder()
    _edit(folder / "config.json", intermediate_size=112)
    with pytest.raises(ModelLoadError, match=r"\(96, 64\), but its config needs \(112, 64\)"):
        open_checkpoint(str(folder))
    _edit(folder / "config.json", intermediate_size=96, num_hidden_layers=3)
    with pytest.raises(ModelLoadError, match=r"no tensor model.layers.2.*and 8 more"):
        open_checkpoint(str(folder))


def test_weights_in_a_type_we_do_not_compute_in_are_refused(make_folder: Make, llama: LlamaForCausalLM) -> None:
    folder = make_folder()
    norm = {"model.norm.weight": torch.ones(64, dtype=torch.int8)}
    save_file(llama.state_dict() | norm, folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match=r"model.norm.weight of tiny-llama is stored as I8"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("value", ["2", [1, "2"], 1.5])
def test_an_end_token_that_is_no_id_is_refused(make_folder: Make, value: object) -> None:
    folder = make_folder()
    _edit(folder / "generation_config.json", eos_token_id=value)
    with pytest.raises(ModelLoadError, match="neither a token id nor a list"):
        open_checkpoint(str(folder))


def _edit(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))
