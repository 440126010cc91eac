"""The structs of kernels/decoder.h, kernels/weights.h and kernels/lora.h, field by field."""

import ctypes
from ctypes import POINTER, c_float, c_int32, c_uint8, c_void_p


class Segment(ctypes.Structure):
    _fields_ = (
        ("kind", c_int32),
        ("first_out", c_int32),
        ("outs", c_int32),
        ("tiles", c_int32),
        ("unit", c_float),
        ("data", c_void_p),
    )


class Product(ctypes.Structure):
    _fields_ = (
        ("outs", c_int32),
        ("ins", c_int32),
        ("num_segments", c_int32),
        ("segments", POINTER(Segment)),
        ("bias", c_void_p),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        ("attention_norm", c_void_p),
        ("attention_post_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("mlp_post_norm", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("qkv", Product),
        ("attention_out", Product),
        ("gate_up", Product),
        ("down", Product),
        ("router", Product),
        ("experts", POINTER(Product)),
        ("num_experts", c_int32),
        ("top_k", c_int32),
        ("normalize", c_int32),
        ("gelu", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("window", c_int32),
        ("rotary", c_int32),
        ("scale", c_float),
        ("softcap", c_float),
    )


class Rotary(ctypes.Structure):
    _fields_ = (("cos", c_void_p), ("sin", c_void_p), ("half", c_int32))


class Model(ctypes.Structure):
    _fields_ = (
        ("hidden", c_int32),
        ("vocabulary", c_int32),
        ("num_layers", c_int32),
        ("kv_kind", c_int32),
        ("block_size", c_int32),
        ("num_blocks", c_int32),
        ("eps", c_float),
        ("embedding_scale", c_float),
        ("logit_softcap", c_float),
        ("embedding", Product),
        ("head", Product),
        ("norm", c_void_p),
        ("layers", POINTER(Layer)),
        ("rotary", POINTER(Rotary)),
        ("cache", POINTER(c_uint8)),
    )


class Step(ctypes.Structure):
    _fields_ = (
        ("num_rows", c_int32),
        ("num_spans", c_int32),
        ("num_logits", c_int32),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("blocks", c_void_p),
        ("adapters", c_void_p),
        ("spans", c_void_p),
        ("logits_rows", c_void_p),
        ("logits", c_void_p),
        ("best", c_void_p),
    )


class LowRank(ctypes.Structure):
    _fields_ = (
        ("first_out", c_int32),
        ("outs", c_int32),
        ("rank", c_int32),
        ("a", c_void_p),
        ("b", c_void_p),
    )


class Delta(ctypes.Structure):
    _fields_ = (("num_parts", c_int32), ("parts", POINTER(LowRank)))


class Adapter(ctypes.Structure):
    _fields_ = (("qkv", Delta), ("attention_out", Delta), ("gate_up", Delta), ("down", Delta))
