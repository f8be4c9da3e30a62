"""Several pipelines at once, with locks that hold and with locks that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lomo.system.files import is_held
from tests.faults.outcomes import Outcome
from tests.faults.study import LOMO_RUN, STUDY, TABLES, Place, copy_of, preloaded, wait_until

OTHERS = "results/other/runs/measure/mini/lomo/32x2-float32-checkpointed/record.json"
BEFORE_RUNS = ("runs", "tables", "figures", "report", "wandb", ".made")


def test_two_studies_at_once(place: Place, reference: Path, outcome: Outcome, number: int) -> None:
    """In one working folder: Snakemake's own files are shared, results are not."""
    outcome.fault, outcome.where = "two at once", "two studies in one folder"
    copy_of(reference, place.folder, *BEFORE_RUNS)
    (place.folder / "other.yaml").write_text(STUDY.replace("study: mini", "study: other"))
    other = place.start(OTHERS, study="other.yaml")
    outcome.passed_by(place, reference, TABLES)
    assert other.wait(timeout=300) == 0, place.said(0)
    assert "Traceback" not in place.said(0)


def test_the_same_study_twice(place: Place, reference: Path, outcome: Outcome, number: int) -> None:
    """The second is sent away, and the first goes on."""
    outcome.fault, outcome.where = "two at once", "the same study twice"
    copy_of(reference, place.folder, *BEFORE_RUNS)
    first = place.start(TABLES)
    wait_until(lambda: is_held(place.results / ".lock") or first.poll() is not None)
    outcome.met(*place.run(TABLES), "another snakemake is working on this study")
    assert first.wait(timeout=300) == 0, place.said(0)
    place.note_finished()
    outcome.resume(place, reference, TABLES)


def test_a_disk_that_keeps_no_locks(
    place: Place, reference: Path, outcome: Outcome, session_folder: Path, number: int
) -> None:
    """One pipeline on it: it goes on, and says that nothing holds back a second."""
    outcome.fault, outcome.where = "no locks", "refused, as by NFS without its lock manager"
    copy_of(reference, place.folder, "runs/train", "tables", "figures", "report", "wandb", ".made")
    place.environment |= preloaded(session_folder, "LOCKS") | {"LOST_LOCKS": "refused"}
    code, output = place.run(TABLES)
    assert code == 0, output
    outcome.met(code, output, "keeps no locks")
    outcome.judge(place, reference)


@pytest.mark.parametrize("locks", ["refused", "lost"])
def test_two_pipelines_where_no_locks_are_kept(
    place: Place, reference: Path, outcome: Outcome, session_folder: Path, locks: str, number: int
) -> None:
    """Both write the same runs. What is wrong then has to be seen, and made again."""
    outcome.fault, outcome.where = "no locks", f"{locks}, and the same study twice"
    copy_of(reference, place.folder, "runs/train", "tables", "figures", "report", "wandb", ".made")
    place.environment |= preloaded(session_folder, "LOCKS") | {"LOST_LOCKS": locks}
    first = place.start(TABLES)
    history = place.folder / LOMO_RUN / "history.jsonl"
    wait_until(lambda: (place.results / ".warm").exists() or first.poll() is not None)
    code, output = place.run(TABLES)
    outcome.codes = [code, first.wait(timeout=300)]
    both = output + place.said(0)
    outcome.message = next((line for line in both.splitlines() if "error:" in line), "")
    assert "Traceback" not in both and history.is_file(), both
    place.environment = {}
    outcome.resume(place, reference, TABLES)
