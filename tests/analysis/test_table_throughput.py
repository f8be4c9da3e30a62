"""Table 2 with what only a GPU's records hold, and with several batch sizes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import synthetic

from analysis.records.collected import Collected, load
from analysis.records.peers import timed_steps
from analysis.statistics.speed import welch_ratio
from analysis.tables.throughput import SPEED, ratio, table_throughput
from analysis.verdicts.orders import order_verdicts

GIB = 2**30


def study(**throughput: Any) -> dict[str, Any]:
    made = synthetic.study_dict()
    for section in ("superglue", "lora_rank", "memory"):
        made.pop(section)
    made["throughput"] = made["throughput"] | {"methods": ["lomo", "adamw"]} | throughput
    return made


def on_gpu(run_id: str, record: dict[str, Any], *, timed_bytes: int = 10 * GIB) -> dict[str, Any]:
    peaks: dict[str, int] = {
        "requested_peak_bytes": 9 * GIB,
        "allocated_peak_bytes": 10 * GIB,
        "active_peak_bytes": 10 * GIB,
        "reserved_peak_bytes": 12 * GIB,
        "num_alloc_retries": 0,
        "num_ooms": 0,
        "driver_used_bytes": 13 * GIB,
    }
    timed = peaks | {"allocated_peak_bytes": timed_bytes}
    cuda = {"metered": peaks, "timed": timed, "allocator_settings": "defaults"}
    shares = {"peak_flops_per_s": 989.4e12, "mfu": 0.4321, "hfu": 0.5432}
    energy = {"energy_j_per_step": 100.0, "energy_j_per_token": 0.0567}
    return record | {
        "efficiency": record["efficiency"] | shares | energy | {"missing": {}},
        "memory": record["memory"] | {"cuda": cuda, "missing": {}},
    }


def collected(folder: Path, made: dict[str, Any], change: Any = None) -> Collected:
    synthetic.write_results(folder, synthetic.plan_of(made), change)
    synthetic.collect_unquestioned(folder)
    return load(folder)


def test_a_gpus_columns_stand_in_the_table(tmp_path: Path) -> None:
    table = table_throughput(collected(tmp_path, study(), on_gpu))
    (block,) = table.blocks
    heads = ["MFU (%)", "HFU (%)", "energy (mJ/token)", "reserved (MiB)"]
    assert list(block.columns[-4:]) == heads
    row = dict(zip(block.columns, map(str, block.rows[0]), strict=True))
    assert (row["MFU (%)"], row["HFU (%)"], row["energy (mJ/token)"]) == ("43.2", "54.3", "56.7")
    assert table.data["cuda_reserved_peak_bytes"].tolist() == [12 * GIB] * 2
    assert any("PaLM" in note for note in table.notes)


def test_a_cpus_table_has_no_such_columns(tmp_path: Path) -> None:
    (block,) = table_throughput(collected(tmp_path, study())).blocks
    assert not any("MFU" in str(column) or "energy" in str(column) for column in block.columns)


def test_a_speed_is_over_that_with_the_same_checkpointing() -> None:
    size = {"model": "mini", "sequence_length": 256, "batch_size": 1, "num_devices": 1}
    rows = [
        SimpleNamespace(**size, method=method, activation_checkpointing=on, **{SPEED: speed})
        for method, on, speed in (("adamw", True, 50.0), ("adamw", False, 100.0))
    ]
    mine = SimpleNamespace(**size, method="lomo", activation_checkpointing=False, **{SPEED: 300.0})
    assert ratio([*rows, mine], mine, "adamw") == 3.0


def test_peaks_that_differ_are_told(tmp_path: Path) -> None:
    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
        timed = 11 * GIB if "/lomo/" in run_id else 10 * GIB
        return on_gpu(run_id, record, timed_bytes=timed)

    notes = table_throughput(collected(tmp_path, study(), change)).notes
    assert any(note.endswith("by more than 1%: mini LOMO.") for note in notes)


def test_only_runs_of_one_batch_are_compared(tmp_path: Path) -> None:
    """LOMO is slower than AdamW with 4 sequences here, and faster with 1."""

    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
        speed = {"lomo/256x1": 300.0, "adamw/256x1": 100.0, "lomo/256x4": 400.0}
        value = next((v for key, v in speed.items() if key in run_id), 800.0)
        names = ("", "_p10", "_p90")
        rates = {f"tokens_per_s_per_device{name}": value for name in names}
        return record | {"throughput": record["throughput"] | rates}

    found = collected(tmp_path, study(batch_size=[1, 4]), change)
    table = table_throughput(found)
    data = table.data.set_index(["method", "batch_size"])["speed_over_adamw"]
    assert data["lomo", 1] == pytest.approx(3.0)
    assert data["lomo", 4] == pytest.approx(0.5)
    assert "batches of 1 and 4 x 256 tokens" in table.caption
    orders = [v for v in order_verdicts(found) if "LOMO above AdamW" in v.what]
    assert [(v.verdict, v.reason.split(";")[0]) for v in orders] == [
        ("reproduced", "as an order, on mini at 1 x 256 tokens"),
        ("differs", "as an order, on mini at 4 x 256 tokens"),
    ]


def test_a_ratio_of_speeds_has_the_interval_of_its_steps(tmp_path: Path) -> None:
    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
        return synthetic.failed(record, "oom") if "/sgd/" in run_id else record

    found = collected(tmp_path, study(methods=["adamw", "sgd", "lomo"]), change)
    table = table_throughput(found)
    data = table.data.set_index("method")
    times = {
        method: timed_steps(found, next(r for r in found.rows("throughput") if r.method == method))
        for method in ("adamw", "lomo")
    }
    told = welch_ratio(times["adamw"], times["lomo"])
    assert told is not None
    ends = [data.loc["lomo", f"speed_over_adamw_{end}"] for end in ("low", "high")]
    assert ends == pytest.approx(told.interval)
    assert ends[0] < data.loc["lomo", "speed_over_adamw"] < ends[1]
    assert data.loc["lomo", ["speed_over_lomo_low", "speed_over_lomo_high"]].isna().all()
    assert data.loc["sgd", ["speed_over_adamw_low", "speed_over_lomo_low"]].isna().all()
