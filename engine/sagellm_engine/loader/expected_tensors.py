"""Which tensors a model needs, and whether a checkpoint has them."""

from sagellm_engine.config import ModelConfig
from sagellm_schemas import ModelLoadError

from .checkpoint import Checkpoint

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: ModelConfig) -> Shapes:
    """Name and shape of every tensor of the model; none for the output layer when it shares the embedding."""
    hidden = config.hidden_size
    shapes: Shapes = {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for index, layer in enumerate(config.layers):
        name = f"model.layers.{index}"
        shapes |= _norms(name, config) | _attention(f"{name}.self_attn", config)
        if not layer.sparse:
            shapes |= _mlp(f"{name}.mlp", config, config.intermediate_size)
        elif config.experts is not None:
            shapes[f"{name}.mlp.gate.weight"] = (config.experts.count, hidden)
            for number in range(config.experts.count):
                shapes |= _mlp(f"{name}.mlp.experts.{number}", config, config.experts.intermediate_size)
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


def _norms(layer: str, config: ModelConfig) -> Shapes:
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config.post_norms:
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    shapes: Shapes = {f"{layer}.{norm}.weight": (config.hidden_size,) for norm in norms}
    if config.qk_norm:
        shapes |= {f"{layer}.self_attn.{norm}.weight": (config.head_dim,) for norm in ("q_norm", "k_norm")}
    return shapes


def _attention(name: str, config: ModelConfig) -> Shapes:
    hidden = config.hidden_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    inputs = {"qkv": queries + 2 * keys} if config.fused else {"q": queries, "k": keys, "v": keys}
    shapes: Shapes = {}
    for projection, rows in inputs.items():
        shapes |= _linear(f"{name}.{projection}_proj", (rows, hidden), config.qkv_bias)
    return shapes | _linear(f"{name}.o_proj", (hidden, queries), config.attention_out_bias)


def _mlp(name: str, config: ModelConfig, inner: int) -> Shapes:
    hidden = config.hidden_size
    inputs = {"gate_up": 2 * inner} if config.fused else {"gate": inner, "up": inner}
    shapes: Shapes = {}
    for projection, rows in inputs.items():
        shapes |= _linear(f"{name}.{projection}_proj", (rows, hidden), config.mlp_bias)
    return shapes | _linear(f"{name}.down_proj", (hidden, inner), config.mlp_bias)


def _linear(name: str, shape: tuple[int, int], bias: bool) -> Shapes:
    weight: Shapes = {f"{name}.weight": shape}
    return weight | {f"{name}.bias": shape[:1]} if bias else weight
