"""One set of tensor names for all families: Llama's, and Qwen's for experts."""

import re

_EXPERTS_OF_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}

Part = tuple[int, slice]
"""Some rows of one expert's matrix in a tensor (experts, out, in)."""


def canonical_name(name: str) -> str:
    """The name by which the engine knows the tensor that a checkpoint calls `name`.

    It changes module names only, so `.qweight` or `.bias` may follow. It knows what Mixtral calls its experts, and
    how models that also see call their text part.
    """
    name = re.sub(r"^(language_model\.model|model\.language_model)\.", "model.", name)
    name = name.removeprefix("language_model.").replace(".block_sparse_moe.", ".mlp.")
    return re.sub(r"(?<=\.experts\.)(\d+)\.(w[123])(?=\.)", _expert_name, name)


def expert_parts(name: str, shape: tuple[int, ...]) -> dict[str, Part]:
    """The matrices in a tensor that has all experts of a layer, by name; empty if `name` is no such tensor.

    transformers 5 can save `mlp.experts.gate_up_proj` (experts, 2 · inner, hidden), which has gates above ups, and
    `mlp.experts.down_proj` (experts, hidden, inner).
    """
    module, _, projection = name.rpartition(".")
    if not module.endswith(".experts") or len(shape) != 3 or 0 in shape:
        return {}
    count, rows, _ = shape
    if projection == "gate_up_proj":
        split = {"gate_proj": slice(0, rows // 2), "up_proj": slice(rows // 2, rows)}
    elif projection == "down_proj":
        split = {"down_proj": slice(0, rows)}
    else:
        return {}
    return {
        f"{module}.{number}.{projection}.weight": (number, rows)
        for number in range(count)
        for projection, rows in split.items()
    }


def _expert_name(match: re.Match[str]) -> str:
    return f"{match[1]}.{_EXPERTS_OF_MIXTRAL[match[2]]}"
