from collections.abc import Callable
from pathlib import Path

from transformers import LlamaForCausalLM

from sagellm_engine.engine import Engine
from sagellm_engine.engine_config import EngineConfig


def test_loading_tells_how_many_weights_are_there_up_to_all_of_them(
    make_folder: Callable[..., Path], llama: LlamaForCausalLM
) -> None:
    heard: list[tuple[int, int]] = []
    config = EngineConfig(model=str(make_folder()), num_blocks=8, quantization="int8")
    Engine(config, progress=lambda loaded, total: heard.append((loaded, total)))
    total = sum(tensor.numel() for tensor in llama.state_dict().values())
    assert {of for _, of in heard} == {total}
    assert [loaded for loaded, _ in heard] == sorted({loaded for loaded, _ in heard})
    assert heard[-1] == (total, total)
    assert len(heard) == len(llama.state_dict())
