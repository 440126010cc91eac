"""What a planner must know of a model: its sizes, and what follows from them. Counts are of parameters."""

import msgspec


class Experts(msgspec.Struct, frozen=True, kw_only=True):
    """The mixture-of-experts part: `layers` layers with `count` experts each, of which a token visits `per_token`.

    `shared_intermediate_size` is the width of the experts that every token visits, all together.
    """

    count: int
    per_token: int
    intermediate_size: int
    layers: int
    shared_intermediate_size: int = 0


class LatentAttention(msgspec.Struct, frozen=True, kw_only=True):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one compressed key-value vector for all heads.

    `q_rank` 0 means that queries are not compressed.
    """

    kv_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int
    q_rank: int = 0


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder-only transformer. `gated` MLPs have three matrices, others two.

    `dtype` is what the checkpoint holds its weights in; see `precision`.
    """

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    gated: bool = True
    tied_embeddings: bool = False
    dtype: str = "bfloat16"
    experts: Experts | None = None
    latent: LatentAttention | None = None

    @property
    def attention_params(self) -> int:
        """One layer's attention."""
        h, heads = self.hidden_size, self.heads
        if self.latent is None:
            return h * self.head_dim * (2 * heads + 2 * self.kv_heads)
        a = self.latent
        q_dim = heads * (a.nope_dim + a.rope_dim)
        q = h * a.q_rank + a.q_rank * q_dim if a.q_rank else h * q_dim
        kv = h * (a.kv_rank + a.rope_dim) + a.kv_rank * heads * (a.nope_dim + a.v_dim)
        return q + kv + heads * a.v_dim * h

    @property
    def expert_params(self) -> int:
        """One expert of one layer; 0 in a dense model."""
        return self._mlp(self.experts.intermediate_size) if self.experts else 0

    @property
    def mlp_params(self) -> int:
        """All layers' MLPs, shared experts and routers: what every token passes besides attention."""
        if self.experts is None:
            return self.layers * self._mlp(self.intermediate_size)
        e = self.experts
        shared = self._mlp(e.shared_intermediate_size) + self.hidden_size * e.count
        return (self.layers - e.layers) * self._mlp(self.intermediate_size) + e.layers * shared

    @property
    def embedding_params(self) -> int:
        """The token embedding; the LM head is as large."""
        return self.vocab_size * self.hidden_size

    @property
    def routed_params(self) -> int:
        """All routed experts of all layers."""
        return self.expert_params * self.experts.count * self.experts.layers if self.experts else 0

    @property
    def common_params(self) -> int:
        """What every token passes in the layers: everything but embedding, LM head and routed experts."""
        return self.layers * self.attention_params + self.mlp_params

    @property
    def total_params(self) -> int:
        """All weights, tied ones once. Norms and biases, less than a thousandth, are left out."""
        return self.common_params + self.routed_params + self.embedding_params * (1 if self.tied_embeddings else 2)

    @property
    def active_params(self) -> int:
        """The weights that one token is multiplied with: those of its experts, and the LM head."""
        visited = self.expert_params * self.experts.per_token * self.experts.layers if self.experts else 0
        return self.common_params + visited + self.embedding_params

    def kv_elements_per_token(self, tp: int) -> int:
        """Cached numbers of one token in one layer, on one of `tp` GPUs.

        Key-value heads are split; with fewer heads than GPUs each holds one. A latent vector is held by all.
        """
        if self.latent is not None:
            return self.latent.kv_rank + self.latent.rope_dim
        return 2 * self.head_dim * max(1, self.kv_heads // tp)

    def _mlp(self, width: int) -> int:
        return self.hidden_size * width * (3 if self.gated else 2)
