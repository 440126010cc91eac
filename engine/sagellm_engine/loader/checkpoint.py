"""What the engine needs of a model on disk, whichever format holds it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from sagellm_engine.config import ModelConfig

if TYPE_CHECKING:
    from sagellm_engine.weights import Weight


class Checkpoint(Protocol):
    """A model opened for reading: everything small is in memory, the weights still on disk.

    Tensors have the names and shapes of Hugging Face's Llama, such as
    `model.layers.0.self_attn.q_proj.weight` of shape (num_heads * head_dim, hidden_size); experts are apart, as in
    `model.layers.0.mlp.experts.7.down_proj.weight`. `expected_tensors.py` has them all.
    """

    @property
    def name(self) -> str:
        """What the model was asked for as: an alias, a Hugging Face id, or the name of the folder or file."""
        ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def quantization(self) -> str:
        """How the weights are quantized, for people, such as `Q4_1` or `GPTQ`; "" if they are not."""
        ...

    @property
    def tokenizer_json(self) -> bytes:
        """A `tokenizer.json`, as the tokenizers library reads it."""
        ...

    @property
    def chat_template(self) -> str:
        """The Jinja source, or "" for a model that does not chat."""
        ...

    @property
    def bos_token(self) -> str:
        """The text of the token that begins a sequence, or "" if there is none."""
        ...

    @property
    def eos_token(self) -> str:
        """The text of the token that ends a sequence, or "" if there is none."""
        ...

    @property
    def eos_token_ids(self) -> list[int]:
        """Every token that ends an answer: end of text, and end of turn for a chat model."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor that `tensors` gives, without reading any data."""
        ...

    def packed_bits(self) -> dict[str, float]:
        """Of each tensor that `tensors` gives quantized: the bits a weight takes once packed, scales included."""
        ...

    def tensors(self) -> "Iterator[tuple[str, Weight]]":
        """Each tensor with its name, on CPU, read when it is reached.

        A tensor has the dtype it is stored in; a quantized matrix is a `GroupQuantized`, or float32 where its kind
        does not fit that. It may share memory with the mapped file: copy it, do not write to it.

        Raises:
            ModelLoadError: the data cannot be read.
        """
        ...
