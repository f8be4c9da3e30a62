"""Whether two results folders of a study say the same: proof of a change that changes nothing.

    python benchmarks/same_results.py BEFORE AFTER

Records, histories, samples, timelines, predictions and tables are compared, figures and pages are
not. What no two runs have in common is left out: times, speeds, who else was on the machine,
commits and fingerprints (TIMED, by the names of keys and columns). Prints what is equal to the
byte, what but for those, and each difference; exit code 0 where there is none, else 1.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

# Keys and columns whose values are times or come from them, or tell of code and machine.
TIMED = re.compile(
    r"(.*_s(_.*)?|.*_at|clock|clock_.*|provenance|throughput|efficiency|energy_.*|mfu|hfu|tokens_per_s.*|"
    r".*tokens/s.*|.*spread.*|host_peak_rss_bytes|git_.*|.*fingerprint.*|code|co_tenants|wall_s|"
    r"ratio.*|speed.*|p10|p90)"
)
# Tables that are of times: their other columns are compared, and no text of theirs.
OF_TIMES = re.compile(r"table2_throughput|table_peers")
# A note that names who else was on the machine: a line of its own.
TENANTS = re.compile(r".*Other processes were busy.*\n")
# A verdict on a speed, by the unit that its row tells.
SPEED = re.compile(r"tokens/s|TGS|speed|times as fast|slower|faster|hours?\b", re.IGNORECASE)
COMPARED = ("runs/**/*.json*", "predictions*/**/*.json", "tables/*", "plan.json")


def main() -> int:
    """Compares, tells, and gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    equal, timed, different = [], [], []
    for name, found in compared(options.before, options.after):
        (equal if found is None else different if found else timed).append((name, found or []))
    print(f"{len(equal)} files are equal to the byte, {len(timed)} but for times and provenance")
    for name, found in different:
        print(f"{name}:")
        for line in found[:10]:
            print(f"  {line}")
    print(f"{len(different)} files differ" if different else "nothing differs")
    return 1 if different else 0


def compared(before: Path, after: Path) -> Iterator[tuple[str, list[str] | None]]:
    """Each file's name and differences: None where equal to the byte, [] where but for times."""
    names = sorted(
        {
            path.relative_to(folder).as_posix()
            for folder in (before, after)
            for pattern in COMPARED
            for path in folder.glob(pattern)
            if path.is_file() and path.suffix not in (".parquet", ".lock")
        }
    )
    for name in names:
        first, second = before / name, after / name
        if not (first.is_file() and second.is_file()):
            yield name, [f"only in {(before if first.is_file() else after)}"]
        elif first.read_bytes() == second.read_bytes():
            yield name, None
        else:
            yield name, list(differences(first, second))


def _without_tenants(text: str) -> str:
    """In LaTeX the note before the last ends in a line break, and the last in none."""
    return TENANTS.sub("", text).replace("\\\\\n", "\n")


def differences(first: Path, second: Path) -> Iterator[str]:
    """What differs in two files and is no time."""
    texts = first.read_text(encoding="utf-8"), second.read_text(encoding="utf-8")
    if first.suffix == ".json":
        yield from _of_values(*(json.loads(text) for text in texts))
    elif first.suffix == ".jsonl":
        lines = ([json.loads(line) for line in text.splitlines()] for text in texts)
        yield from _of_values(*lines)
    elif first.suffix == ".csv":
        yield from _of_rows(*(list(csv.DictReader(io.StringIO(text))) for text in texts))
    elif not OF_TIMES.search(first.name) and first.with_suffix(".csv").is_file():
        # The same table as text: its csv tells whether all that differs are times.
        beside = first.with_suffix(".csv"), second.with_suffix(".csv")
        alike = _without_tenants(texts[0]) == _without_tenants(texts[1])
        if not alike and beside[0].read_bytes() == beside[1].read_bytes():
            yield "the text differs, its csv does not"


def _of_values(first: Any, second: Any, place: str = "") -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            if not TIMED.fullmatch(key):
                where = f"{place}.{key}" if place else key
                yield from _of_values(first.get(key), second.get(key), where)
    elif isinstance(first, list) and isinstance(second, list):
        for number, pair in enumerate(zip_longest(first, second)):
            yield from _of_values(*pair, f"{place}[{number}]")
    elif first != second:
        yield f"{place}: {first!r}, then {second!r}"


def _of_rows(first: list[dict[str, str]], second: list[dict[str, str]]) -> Iterator[str]:
    for number, (row, other) in enumerate(zip_longest(first, second, fillvalue={}), start=2):
        told = " ".join(str(value) for value in row.values())
        for column in dict.fromkeys((*row, *other)):
            if row.get(column) == other.get(column) or TIMED.fullmatch(column):
                continue
            if not SPEED.search(told):
                yield f"line {number}, {column}: {row.get(column)!r}, then {other.get(column)!r}"


if __name__ == "__main__":
    sys.exit(main())
