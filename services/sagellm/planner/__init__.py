"""The parallelism planner: which split of a model over GPUs serves a load best, from a memory and a time model."""

from .choose import Choice, Objective, choose
from .gpus import GPUS, Gpu, find_gpu
from .layout import Layout
from .model_shape import Experts, LatentAttention, ModelShape
from .workload import Workload

__all__ = [
    "GPUS",
    "Choice",
    "Experts",
    "Gpu",
    "LatentAttention",
    "Layout",
    "ModelShape",
    "Objective",
    "Workload",
    "choose",
    "find_gpu",
]
