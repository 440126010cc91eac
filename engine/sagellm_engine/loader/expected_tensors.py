"""Which tensors a Llama needs, and whether a checkpoint has them."""

from sagellm_engine.config import ModelConfig
from sagellm_schemas import ModelLoadError

from .checkpoint import Checkpoint

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: ModelConfig) -> Shapes:
    """Name and shape of every tensor of the model; none for the output layer when it shares the embedding."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    mlp = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    shapes: Shapes = {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for index in range(config.num_layers):
        layer = f"model.layers.{index}"
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        for projection, shape in attention.items():
            shapes |= _linear(f"{layer}.self_attn.{projection}_proj", shape, config.attention_bias)
        for projection, shape in mlp.items():
            shapes |= _linear(f"{layer}.mlp.{projection}_proj", shape, config.mlp_bias)
    return shapes


def check_tensors(checkpoint: Checkpoint) -> None:
    """Check, without reading data, that every tensor is there in the shape its config asks for.

    Raises:
        ModelLoadError: one is missing, or of another shape.
    """
    found, expected = checkpoint.shapes(), expected_shapes(checkpoint.config)
    missing = [name for name in expected if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelLoadError(f"{checkpoint.name} has no tensor {missing[0]}{more}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ModelLoadError(
                f"tensor {name} of {checkpoint.name} has shape {found[name]}, but its config needs {shape}"
            )


def _linear(name: str, shape: tuple[int, int], bias: bool) -> Shapes:
    weight: Shapes = {f"{name}.weight": shape}
    return weight | {f"{name}.bias": shape[:1]} if bias else weight
