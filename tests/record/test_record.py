"""The record: a round trip, whole or not at all, and nothing missing without a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lomo.errors import UserError
from lomo.record.schema import SCHEMA_VERSION, Evidence, Record, read_record, write_record
from lomo.study.config import Study
from lomo.study.plan import make_plan, read_spec


@pytest.fixture
def record(study_dict: dict[str, Any]) -> Record:
    from lomo.record.clock import Clock
    from lomo.record.provenance import read_provenance

    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    spec = next(iter(plan.runs.values()))
    absent = {
        name: "not reached"
        for name in (
            "evidence",
            "model",
            "training",
            "result",
            "throughput",
            "efficiency",
            "memory",
        )
    }
    return Record(
        study=spec.study,
        run_id=spec.run_id,
        kind="train",
        status="ok",
        spec=spec.model_dump(),
        provenance=read_provenance(spec, "cpu"),
        clock=Clock().read(),
        evaluations=[],
        missing=absent,
        **dict.fromkeys(absent, None),  # type: ignore[arg-type]
    )


def test_a_record_survives_a_round_trip(record: Record, tmp_path: Path) -> None:
    write_record(tmp_path / "r" / "record.json", record)
    assert read_record(tmp_path / "r" / "record.json") == record
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["record.json"]


def test_a_record_is_enough_to_repeat_its_run(record: Record) -> None:
    spec = read_spec(json.loads(record.model_dump_json()), where="record.json")
    assert spec.model_dump() == record.spec


def test_null_needs_a_reason_and_a_value_has_none() -> None:
    with pytest.raises(ValidationError, match="null without a reason"):
        Evidence(message="oom", step=None, peak_before_bytes=1)
    with pytest.raises(ValidationError, match="reason without a null"):
        Evidence(message="oom", step=1, peak_before_bytes=1, missing={"step": "why"})
    Evidence(message="oom", step=None, peak_before_bytes=1, missing={"step": "before the first"})


def test_a_cut_record_is_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, record)
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match="it was cut"):
        read_record(path)


def test_another_schema_version_is_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    data = json.loads(record.model_dump_json())
    path.write_text(json.dumps({**data, "schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(UserError, match="schema_version"):
        read_record(path)


def test_an_unknown_field_is_refused(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**json.loads(record.model_dump_json()), "score": 1}))
    with pytest.raises(UserError, match="score"):
        read_record(path)


def test_a_record_tells_which_instructions_pytorch_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = "from lomo.record.device import read_device; print(read_device('cpu').cpu_capability)"
    told = {}
    for asked in (None, "default"):
        if asked:
            monkeypatch.setenv("ATEN_CPU_CAPABILITY", asked)
        done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
        told[asked] = done.stdout.decode().strip()
    assert told[None] == torch.backends.cpu.get_cpu_capability()
    assert told["default"] == "DEFAULT"
