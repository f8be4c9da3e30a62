"""What came of each fault: a line a try, and a table of them all."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.study import RESULTS, Place

HEAD = ["fault", "where", "times", "exit codes", "what is said", "lost", "tables equal after"]
_LONGEST = 140


@dataclass
class Outcome:
    """One try. `equal` and `lost` are None where it was not come to that."""

    fault: str
    where: str
    codes: list[int] = field(default_factory=list)
    message: str = ""
    lost: list[str] | None = None
    differences: list[str] | None = None

    def met(self, code: int, output: str, expected: str) -> None:
        """The fault was met so; its message is a line that `expected` is found in, ours if any."""
        self.codes.append(code)
        found = [line.strip() for line in output.splitlines() if re.search(expected, line)]
        assert found, f"nothing says {expected!r} (exit code {code}):\n{output}"
        self.message = next((line for line in found if line.startswith("error: ")), found[0])
        assert "Traceback" not in output, output

    def passed(self, output: str, told: str) -> None:
        """The work was done in spite of the fault, which may have been told."""
        self.codes.append(0)
        self.message = next((line for line in output.splitlines() if re.search(told, line)), "")
        assert "Traceback" not in output, output

    def passed_by(self, place: Place, reference: Path, target: str) -> None:
        """The whole work is done under the fault, and nobody notices."""
        code, output = place.run(target)
        assert code == 0, output
        self.passed(output, "nothing is looked for^")
        self.judge(place, reference)

    def resume(self, place: Place, reference: Path, target: str) -> None:
        """The fault is mended and the command started again: all is done, as it should be."""
        code, output = place.run(target)
        assert code == 0, output
        assert "Traceback" not in output, output
        self.judge(place, reference)

    def judge(self, place: Place, reference: Path) -> None:
        """Nothing is lost, and the tables are those of a study that has met no fault."""
        self.lost = place.lost()
        self.differences = place.differences(reference / RESULTS)
        assert not self.lost, self.lost
        assert not self.differences, self.differences


def write(outcome: Outcome, path: Path) -> None:
    """Adds a line to a file that several processes write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def table(path: Path) -> str:
    """The lines of a file as a table in Markdown, a row for each fault and place."""
    tries: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for line in path.read_text().splitlines():
        one = Outcome(**json.loads(line))
        tries[one.fault, one.where].append(one)
    rows = [HEAD, ["---"] * len(HEAD)]
    for (fault, where), found in sorted(tries.items()):
        rows.append([fault, where, str(len(found)), *_told(found)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _told(found: list[Outcome]) -> list[str]:
    codes = sorted({code for one in found for code in one.codes})
    messages = sorted({_short(one.message) for one in found} - {""})
    lost = sum(len(one.lost or []) for one in found)
    equal = sum(one.differences == [] for one in found)
    return [
        ", ".join(map(str, codes)) or "0",
        "<br>".join(messages) or "nothing: it goes on",
        str(lost) if all(one.lost is not None for one in found) else f"{lost}, not all were judged",
        f"{equal} of {len(found)}",
    ]


def _short(message: str) -> str:
    """Without what differs from try to try: folders of a test, numbers of processes."""
    message = re.sub(r"\S*/place-[^/\s]*/", "", message).replace("|", "\\|")
    message = re.sub(r"\d{3,}", "N", message)
    return message if len(message) <= _LONGEST else message[: _LONGEST - 3] + "..."
