"""Write any model sageLLM opens as a Hugging Face folder, so that other engines can be measured on its weights.

    python ops/bench/export_hf.py smollm2-135m-instruct /tmp/smollm2 --dtype bfloat16

The weights are held in memory while they are written.
"""

import argparse
import sys
from pathlib import Path

from sagellm.cli.bench.hf_folder import DTYPES, write_hf_folder
from sagellm_engine.loader import open_checkpoint
from sagellm_schemas import SageError


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a model as a Hugging Face folder with safetensors.")
    parser.add_argument("model", help="alias, GGUF file, folder or Hugging Face id")
    parser.add_argument("folder", type=Path, help="where to write; made if it is not there")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    arguments = parser.parse_args()
    try:
        checkpoint = open_checkpoint(arguments.model)
        write_hf_folder(checkpoint, arguments.folder, arguments.dtype)
    except SageError as error:
        sys.exit(str(error))
    print(f"wrote {checkpoint.name} in {arguments.dtype} to {arguments.folder}")


if __name__ == "__main__":
    main()
