"""Names of the original that the wire does not need."""

from enum import StrEnum


class ExecutionInstanceType(StrEnum):
    """What an instance does."""

    GENERAL = "general"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    HYBRID = "hybrid"
    EMBEDDING = "embedding"
    LLM_EMBEDDING = "llm_embedding"


class ParallelismType(StrEnum):
    """How a model is split over GPUs."""

    TENSOR_PARALLEL = "tp"
    PIPELINE_PARALLEL = "pp"
    DATA_PARALLEL = "dp"
    EXPERT_PARALLEL = "ep"
    HYBRID = "hybrid"
