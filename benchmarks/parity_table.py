"""The README's table: `pytest parity/ --report r.json; python benchmarks/parity_table.py r.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

FEATURES = ("c2", "c3", "c4", "c5", "fused")


def main() -> None:
    rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"]
    rows = [row for row in rows if "::test_mindocr[" in row["test"]]
    print("| network | runtime | features | probability | probability to float64 | MindOCR's own to float64 |")
    print("|---|---|---|---|---|---|")
    for spec, runner in dict.fromkeys((row["spec"], row["runner"]) for row in rows):
        mine = {row["stage"]: row for row in rows if (row["spec"], row["runner"]) == (spec, runner)}
        features = max(mine[stage]["max_rel"] for stage in FEATURES)
        last = mine["probability"]
        print(f"| `{spec}` | {runner} | {features:.1e} | {last['max_rel']:.1e} | {last['to_float64']:.1e} | "
              f"{last['original_to_float64']:.1e} |")


if __name__ == "__main__":
    main()
