"""The parts that models are put together from. All arithmetic is float32 unless a layer says otherwise."""

from .linear import Linear, make_linear
from .mlp import activate_and_mul
from .rmsnorm import rms_norm
from .rotary import RotaryTable, rotate

__all__ = ["Linear", "RotaryTable", "activate_and_mul", "make_linear", "rms_norm", "rotate"]
