"""What a machine computes in is asked once, decides `dtype: auto`, and is said where it is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.forecast.command import plan_line
from lomo.forecast.estimates import Estimates
from lomo.study import native_dtype
from lomo.study.config import Study
from lomo.study.machine import Machine, Speed
from lomo.study.native_dtype import Products, keep, slow_dtypes, time_products, why_slow
from lomo.study.plan import Plan, make_plan
from lomo.study.suites.section import Suites
from lomo.system.strict import parse

WITH = Products(flops_per_s={"float32": 100e9, "bfloat16": 200e9, "float16": 3e9}, num_threads=1)
# An AVX2 machine, as measured with ONEDNN_MAX_CPU_ISA=AVX2.
WITHOUT = Products(flops_per_s={"float32": 105e9, "bfloat16": 3e9, "float16": 3.5e9}, num_threads=1)


@pytest.fixture
def study(study_dict: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(native_dtype, "file_of", lambda study: tmp_path / study / "machine.json")
    monkeypatch.setattr(native_dtype, "_asked", {})
    del study_dict["superglue"]
    study_dict["memory"]["dtype"] = "auto"
    return parse(Study, study_dict, where="unit")


def plan_on(machine: Products, study: Study, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(native_dtype, "_asked", {})
    monkeypatch.setattr(native_dtype, "_ask", lambda num_threads: machine)
    return make_plan(study, source="unit")


@pytest.mark.parametrize(("machine", "dtype"), [(WITH, "bfloat16"), (WITHOUT, "float32")])
def test_auto_is_what_the_machine_computes_in(
    machine: Products, dtype: str, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_on(machine, study, monkeypatch)
    assert {run.dtype for run in plan.runs.values()} == {dtype}
    assert all(f"-{dtype}-" in run_id for run_id in plan.runs)
    assert plan.study.memory is not None and plan.study.memory.dtype == dtype


def test_a_study_that_has_begun_keeps_its_dtype_on_another_machine(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = plan_on(WITH, study, monkeypatch)
    keep(begun.study)
    assert plan_on(WITHOUT, study, monkeypatch) == begun
    native_dtype.file_of("unit").unlink()
    assert plan_on(WITHOUT, study, monkeypatch) != begun


def test_a_study_without_auto_asks_nothing_and_keeps_nothing(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.memory is not None
    memory = study.memory.model_copy(update={"dtype": "float16"})
    fixed = study.model_copy(update={"memory": memory})
    monkeypatch.setattr(native_dtype, "_ask", lambda num_threads: pytest.fail("asked"))
    assert native_dtype.in_native_dtype(fixed) == fixed
    keep(fixed)
    assert not native_dtype.file_of("unit").exists()


def test_a_cut_answer_is_refused(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(plan_on(WITH, study, monkeypatch).study)
    path = native_dtype.file_of("unit")
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=r"(?s)machine\.json.*delete it"):
        plan_on(WITH, study, monkeypatch)


@pytest.mark.parametrize(("card", "dtype"), [("NVIDIA H200", "bfloat16"), ("Tesla T4", "float32")])
def test_a_gpu_without_bfloat16_units_takes_float32(
    card: str, dtype: str, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(
        kind="cuda", name=card, num_devices=1, device_bytes=1, host_bytes=1, origin="found"
    )
    monkeypatch.setattr(native_dtype, "find_machine", lambda device: machine)
    assert {run.dtype for run in make_plan(study, source="unit").runs.values()} == {dtype}


def test_slow_is_more_than_three_times_slower_than_float32() -> None:
    rates = {"float32": 90.0, "bfloat16": 30.0, "float16": 29.0}
    assert slow_dtypes(rates, ["float32", "bfloat16", "float16"]) == {"float16": 90.0 / 29.0}
    assert slow_dtypes({"bfloat16": 1.0}, ["bfloat16"]) == {}


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_plan_says_the_factor_and_the_way_out(
    kind: Any, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_on(WITH, study, monkeypatch)
    machine = Machine(
        kind=kind, name="M", num_devices=1, device_bytes=None, host_bytes=1, origin="given"
    )
    speed = Speed(flops_per_s=WITHOUT.flops_per_s, source="timed")
    line = plan_line(plan, Estimates(machine=machine, speed=speed, download_bytes=0, runs={}))
    said = "12 runs are slow: this CPU multiplies bfloat16 35 times slower than float32"
    assert (said in line) == (kind == "cpu")
    assert ("dtype: float32" in line) == (kind == "cpu")


def test_suites_in_a_slow_dtype_are_told_of_too(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    suites = {"models": ["tiny-s"], "data": "generated", "tasks": {"miniature": {}}}
    plan = plan_on(WITHOUT, study.model_copy(update={"suites": Suites(**suites)}), monkeypatch)
    machine = Machine(
        kind="cpu", name="M", num_devices=1, device_bytes=None, host_bytes=1, origin="given"
    )
    speed = Speed(flops_per_s=WITHOUT.flops_per_s, source="timed")
    line = plan_line(plan, Estimates(machine=machine, speed=speed, download_bytes=0, runs={}))
    num = len(plan.suites)
    assert num and f"{num} runs are slow: this CPU multiplies bfloat16 35 times slower" in line
    assert f"and {num} scores of suites, whose time is not known" in line


def test_a_run_is_told_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_dtype, "time_products", lambda num_threads, dtypes: WITHOUT)
    assert "35 times slower" in (why_slow("bfloat16", "cpu", 1) or "")
    assert why_slow("float32", "cpu", 1) is None
    monkeypatch.setattr(native_dtype, "time_products", lambda num_threads, dtypes: WITH)
    assert why_slow("bfloat16", "cpu", 1) is None


def test_products_are_timed_in_each_dtype_and_threads_are_left_as_they_were() -> None:
    import torch

    before = torch.get_num_threads()
    timed = time_products(1)
    assert set(timed.flops_per_s) == {"float32", "bfloat16", "float16"}
    assert all(rate > 0 for rate in timed.flops_per_s.values())
    assert torch.get_num_threads() == before
