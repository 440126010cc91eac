"""What each policy and strategy is for, measured in the simulator: `python ops/bench/scheduling TRACE [PART …]`.

Prints Markdown tables; `--out FOLDER` keeps the raw figures, one JSON file a part.
"""

import argparse
import json
import sys
from pathlib import Path

import mixes
import multi_turn
import split
import two_prices
import two_users

PARTS = {
    "adaptive": mixes,
    "fair": two_users,
    "cost": two_prices,
    "prefix": multi_turn,
    "split": split,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scheduling", description=__doc__)
    parser.add_argument("trace", type=Path, help="an Azure trace")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for name in options.parts or PARTS:
        print(f"measuring {name}", file=sys.stderr)
        found = PARTS[name].run(options.trace, seeds)
        if options.out is not None:
            (options.out / f"scheduling-{name}.json").write_text(json.dumps(found, separators=(",", ":")) + "\n")
        print(f"## {name}\n\n{PARTS[name].tables(found)}\n", flush=True)


if __name__ == "__main__":
    main()
