"""The figures of a GPU: attention, one stream and many, against what the hardware and transformers can do.

    python ops/bench/kernels.py --out docs/benchmarks/kernels.json

Takes about five minutes on an H100, and says how far each figure is. Random weights of real shapes serve.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from gpu.attention import attention_cases
from gpu.many_streams import many_streams_case
from gpu.single_stream import single_stream_cases
from gpu.timing import copy_bytes_per_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the GPU path.")
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("PyTorch sees no GPU")
    copy = copy_bytes_per_s()
    figures: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "copy_bytes_per_s": copy,
        "cases": [],
    }
    print(f"{figures['gpu']}: a copy moves {copy / 1e12:.2f} TB/s, read and written", flush=True)
    parts: list[Callable[[], list[dict[str, Any]]]] = [
        lambda: attention_cases(copy),
        lambda: single_stream_cases(copy),
        lambda: [many_streams_case()],
    ]
    for part in parts:
        try:
            for case in part():
                figures["cases"].append(case)
                print(json.dumps(case), flush=True)
        except Exception:  # the other parts are worth their GPU time
            figures["cases"].append({"failed": traceback.format_exc()})
            traceback.print_exc()
        torch.cuda.empty_cache()
        if arguments.out:
            arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
