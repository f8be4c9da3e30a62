"""What collect, tables and the look at the start cost on many made-up records, files and all.

python benchmarks/collect_cost.py [--records 10000] [--times 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "analysis")]

NUM_TRAINED = 9  # methods and their trials below
COMMANDS = ("collect", "table")


def study(num_records: int) -> dict[str, Any]:
    """A study of about so many training runs: six tasks, so many seeds."""
    import synthetic

    made = synthetic.study_dict()
    for section in ("lora_rank", "memory", "throughput"):
        made.pop(section)
    made["superglue"]["methods"] = [name for name in synthetic.METHODS if name != "zero_shot"]
    num_seeds = max(1, num_records // (len(synthetic.TASKS) * (NUM_TRAINED - 1)))
    return made | {"superglue": {**made["superglue"], "seeds": list(range(1, num_seeds + 1))}}


def main() -> None:
    """Prints the seconds of each command, as a process of its own: median, least, most."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--results", type=Path, help="a folder that was made before, or to be made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = options.results or Path(folder) / "made-up"
        if not (results / "plan.json").is_file():
            import synthetic

            synthetic.write_results(results, synthetic.plan_of(study(options.records)))
        measure(results, options.times)


def measure(results: Path, times: int) -> None:
    """Runs the commands in turn, so that a drift of the machine meets both alike."""
    found: dict[str, list[float]] = {name: [] for name in (*COMMANDS, "both")}
    for _ in range(times):
        took = [seconds_of(command, results) for command in COMMANDS]
        for name, seconds in zip(found, [*took, sum(took)], strict=True):
            found[name].append(seconds)
    number = sum(1 for _ in (results / "runs").rglob("record.json"))
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name:8} {middle:6.2f} s  ({spread})  {number} records")


def seconds_of(command: str, results: Path) -> float:
    """Wall seconds of one command of `analysis`."""
    started = time.perf_counter()
    arguments = ["-m", "lomo_analysis", command, "--results", str(results)]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
