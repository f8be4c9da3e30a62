"""Judges every program of a folder, watches what it does to this machine, and prints both as JSON.

Run by itself, as any user: `python trial.py FOLDER`, with the package on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from lomo.contained.judge import Limits, judge
from lomo.contained.probe import cannot_contain

LIMITS = Limits(cpu_s=1, wall_s=3.0, memory_bytes=256 << 20)
PROMPT = 'def double(x):\n    """Twice x."""\n'
TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(5) == 10\n"


def contained_processes() -> set[int]:
    """Processes of this machine that run a program of a sandbox, whatever their parent."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"inside.solution" in words or b"inside.checker" in words:
            found.add(int(folder.name))
    return found


def left_of(pids: set[int]) -> set[int]:
    """Those of `pids` that are still there after ten seconds at most."""
    until = time.monotonic() + 10
    while (pids := pids & contained_processes()) and time.monotonic() < until:
        time.sleep(0.05)
    return pids


def judge_file(path: Path) -> dict[str, object]:
    program = path.read_text()
    return asdict(judge(program, prompt=PROMPT, test=TEST, entry_point="double", limits=LIMITS))


def main() -> None:
    if why := cannot_contain():
        print(json.dumps({"cannot": why}))
        return
    before = contained_processes()
    paths = sorted(Path(sys.argv[1]).glob("*.py"))
    # In threads, since some only wait for their time to be over.
    with ThreadPoolExecutor(4) as pool:
        judged = dict(zip([path.stem for path in paths], pool.map(judge_file, paths), strict=True))
    print(
        json.dumps(
            {
                "uid": os.getuid(),
                "judged": judged,
                "num_left": len(left_of(contained_processes() - before)),
            }
        )
    )


if __name__ == "__main__":
    main()
