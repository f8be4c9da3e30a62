"""What is predicted not to fit is a record, and no launch, unless the user wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lomo.cli import main
from lomo.forecast.estimates import ANYWAY, forget_unlaunched
from lomo.record.schema import Device, read_record
from lomo.specs import MeasureSpec
from lomo.study.config import Study
from lomo.study.machine import GIB, host_bytes
from lomo.study.plan import make_plan
from tests.forecast.test_estimates import estimate, estimates

CARD = Device(
    kind="cuda",
    name="a card",
    num_devices=1,
    memory_bytes=24 * GIB,
    num_threads=1,
    driver="made up",
    cpu_capability=None,
    co_tenants=[],
    missing={"cpu_capability": "the device is no CPU"},
)


@pytest.fixture
def run(study_dict: dict[str, Any]) -> MeasureSpec:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    found = next(run for run in plan.runs.values() if run.kind == "measure")
    assert isinstance(found, MeasureSpec)
    return found


def measure(run: MeasureSpec, folder: Path, peak_bytes: int, **changes: Any) -> Any:
    path = folder / "estimates.json"
    found = estimates({run.run_id: estimate(peak_bytes=peak_bytes)}, **changes)
    path.write_text(found.model_dump_json())
    arguments = ["--spec", run.model_dump_json(), "--out", str(folder), "--estimates", str(path)]
    assert main(["measure", *arguments]) == 0
    return read_record(folder / "record.json")


def test_a_run_that_cannot_fit_is_recorded_and_not_launched(
    run: MeasureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lomo.run.execute.execute", None)  # would fail if it were called
    record = measure(run, tmp_path, 10**6 * GIB)
    assert (record.status, record.memory, record.model) == ("predicted_oom", None, None)
    assert record.evidence.message.startswith("not launched: the predicted peak of 1000000.00 GiB")
    assert record.evidence.missing["step"] == "it was not launched"
    assert record.spec == run.model_dump()


def test_a_run_that_fits_is_launched(run: MeasureSpec, tmp_path: Path) -> None:
    assert measure(run, tmp_path, GIB // 8).status == "ok"


def test_without_estimates_a_run_is_launched(run: MeasureSpec, tmp_path: Path) -> None:
    arguments = ["--spec", run.model_dump_json(), "--out", str(tmp_path)]
    assert main(["measure", *arguments, "--estimates", str(tmp_path / "nowhere.json")]) == 0
    assert read_record(tmp_path / "record.json").status == "ok"


def test_the_user_can_have_it_launched_anyway(
    run: MeasureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ANYWAY, "1")
    assert measure(run, tmp_path, 10**6 * GIB).status == "ok"


def test_a_prediction_for_another_kind_of_device_stops_nothing(
    run: MeasureSpec, tmp_path: Path
) -> None:
    assert measure(run, tmp_path, 10**6 * GIB, kind="cuda").status == "ok"


def test_a_run_with_too_few_gpus_is_unsupported(
    run: MeasureSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lomo.run.execute.execute", None)  # would fail if it were called
    monkeypatch.setattr("lomo.run.execute.choose_device", lambda *_: "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("lomo.record.provenance.read_device", lambda *_: CARD)
    spread = run.model_copy(update={"num_devices": 8, "engine": "fsdp2"})
    record = measure(spread, tmp_path, GIB // 8, kind="cuda")
    assert record.status == "unsupported"
    assert record.evidence.message == "not launched: it asks for 8 devices, 1 are there"
    forget_unlaunched([tmp_path])
    assert not (tmp_path / "record.json").exists()


def test_ranks_on_a_cpu_count_together(run: MeasureSpec, tmp_path: Path) -> None:
    spread = run.model_copy(update={"num_devices": 4, "engine": "fsdp2"})
    record = measure(spread, tmp_path, host_bytes() // 3)
    assert record.status == "predicted_oom"


def test_only_records_of_runs_that_were_not_launched_are_forgotten(
    run: MeasureSpec, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("unlaunched", "done", "empty")]
    for folder in folders:
        folder.mkdir()
    measure(run, folders[0], 10**6 * GIB)
    measure(run, folders[1], GIB // 8)
    forget_unlaunched(folders)
    assert [(folder / "record.json").exists() for folder in folders] == [False, True, False]
