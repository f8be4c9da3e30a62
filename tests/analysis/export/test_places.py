"""Published is what a study's values stand on, and no folder of the machine that made them."""

from __future__ import annotations

from pathlib import Path

import synthetic
import travelling

from analysis.cli import main
from analysis.page.publish import publish
from lomo.study.config import Generated


def test_no_place_of_the_machine_is_published_and_the_records_are_still_believed(
    tmp_path: Path,
) -> None:
    results, to = tmp_path / "results" / "made-up", tmp_path / "published" / "made-up"
    mine = tmp_path / "lines of mine"
    travelling.write_data(mine, Generated())
    plan = synthetic.plan_of(travelling.study(data=str(mine)))
    synthetic.write_results(results, plan)
    place = str(tmp_path).encode()
    assert any(place in path.read_bytes() for path in results.rglob("*.json"))
    publish(results, to)
    for path in to.rglob("*.json"):
        assert place not in path.read_bytes(), path
    assert b'"lines of mine"' in (to / "plan.json").read_bytes()
    assert main(["collect", "--results", str(to)]) == 0
