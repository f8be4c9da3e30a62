"""The cells of an ablation: which runs there are, what each is compared with, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.memory.predicted.predict import predict
from lomo.model.architecture import read_architecture
from lomo.model.registry import ModelEntry, random_config, resolve_model
from lomo.specs import AblationSpec
from lomo.study.ablation import Row, plan_ablation
from lomo.study.config import Study, load_study
from lomo.study.plan import Plan, make_plan, read_spec
from tests.memory.predictions import measured, predicted

ROOT = Path(__file__).parents[2]
CHANGES: dict[str, dict[str, Any]] = {
    "bf16": {"title": "16-bit weights", "dtype": "bfloat16"},
    "recompute": {"activation_checkpointing": True},
    "no_state": {"method": "torch_sgd"},
    "lomo": {"needs": ["no_state"], "method": "lomo"},
    "gemm": {"needs": ["lomo"], "hyper": {"update": "gemm"}},
    "head": {"head_loss": "fused"},
    "shards": {"replaces": ["gemm"], "engine": "fsdp2", "num_devices": 2},
}


def study(changes: dict[str, Any] = CHANGES, model: str = "llama-33m", **more: Any) -> Study:
    section = {"models": [model], "batch_size": 1, "sequence_length": 16, "changes": changes}
    given = {"study": "unit", "title": "t", "data": "generated", "device": "cpu"}
    return Study.model_validate({**given, "ablation": {**section, **more}})


def planned(**given: Any) -> tuple[Plan, dict[str, Row]]:
    made = study(**given)
    assert made.ablation is not None
    entries = [resolve_model(name, where="test") for name in made.ablation.models]
    rows = plan_ablation(made, made.ablation, entries, "test")[1]
    return make_plan(made, source="test"), {row.change: row for row in rows}


def names(run_id: str | None) -> list[str]:
    """The changes of a run."""
    cell = str(run_id).rsplit("/", 1)[-1]
    return [] if cell == "base" else cell.split("-")


def test_the_base_is_what_is_left_without_changes() -> None:
    plan, rows = planned(base={"method": "sgd", "max_grad_norm": 1.0})
    spec = plan.runs[str(rows["base"].stacked.run_id)]
    assert isinstance(spec, AblationSpec)
    assert (spec.method, spec.max_grad_norm, spec.dtype, spec.attention) == (
        *("sgd", 1.0),
        *("float32", "eager"),
    )


def test_each_change_is_compared_with_the_same_without_it() -> None:
    _, rows = planned()
    assert names(rows["gemm"].alone.run_id) == ["no_state", "lomo", "gemm"]
    assert names(rows["gemm"].alone.against) == ["no_state", "lomo"]
    stack = ["bf16", "recompute", "no_state", "lomo", "gemm", "head"]
    assert names(rows["head"].stacked.run_id) == stack
    assert names(rows["head"].stacked.against) == stack[:-1]
    full = [name for name in stack if name != "gemm"] + ["shards"]
    assert names(rows["shards"].stacked.run_id) == full
    assert names(rows["head"].without.against) == full
    assert names(rows["head"].without.run_id) == [name for name in full if name != "head"]
    # Without SGD no LOMO: it would have no state either.
    kept = ["bf16", "recompute", "head", "shards"]
    assert names(rows["no_state"].without.run_id) == kept
    assert rows["gemm"].without.run_id is None


def test_changes_are_left_out_of_the_stack_that_is_named() -> None:
    _, rows = planned(left_out_of="head")
    stack = ["bf16", "recompute", "no_state", "lomo", "gemm", "head"]
    assert names(rows["bf16"].without.against) == stack
    assert names(rows["gemm"].without.run_id) == [name for name in stack if name != "gemm"]
    assert rows["shards"].without.run_id is None


def test_what_an_engine_cannot_do_is_told_and_stays_out_of_the_stack() -> None:
    changes = {name: change | {"replaces": []} for name, change in CHANGES.items()}
    changes["last"] = {"attention": "sdpa"}
    _, rows = planned(changes=changes)
    assert rows["shards"].stacked.run_id is None
    assert "lomo on fsdp2 can't honour update" in str(rows["shards"].stacked.reason)
    assert rows["shards"].alone.run_id is not None
    assert "shards" not in names(rows["last"].stacked.run_id)
    _, rows = planned()
    assert "fsdp2 can't run torch_sgd" in str(rows["lomo"].without.reason)


def test_what_needs_a_change_that_is_not_in_the_stack_says_so() -> None:
    changes = {**CHANGES, "late": {"needs": ["gemm"], "hyper": {"norm_scope": "global"}}}
    _, rows = planned(changes=changes)
    assert rows["late"].stacked.reason == "it needs gemm, which the stack has not"


def test_cells_of_one_setting_share_a_run_and_each_run_survives_the_command_line() -> None:
    plan, _ = planned(changes={**CHANGES, "nothing_new": {"dtype": "bfloat16"}})
    settings = [
        spec.model_dump_json(exclude={"run_id", "cell"})
        for spec in plan.runs.values()
        if isinstance(spec, AblationSpec)
    ]
    assert len(settings) == len(set(settings)) == len(plan.runs)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    for spec in plan.runs.values():
        assert read_spec(json.loads(spec.model_dump_json()), where="--spec") == spec


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": {}}, "changes nothing"),
        ({"x": {"title": "only words"}}, "changes nothing"),
        ({"x": {"needs": ["y"], "dtype": "bfloat16"}, "y": {"method": "lomo"}}, "no change before"),
        ({"x": {"hyper": {"update": "gemm"}}}, "adamw has no update"),
        ({"x": {"method": "lomoo"}}, "unknown method"),
        ({"x": {"method": "zero_shot"}}, "takes no step"),
        (
            {"x": {"engine": "fsdp2", "num_devices": 2, "method": "torch_sgd"}},
            "can't run torch_sgd",
        ),
        ({"x": {"engine": "zero3", "num_devices": 2, "head_loss": "fused"}}, "ZeRO-3"),
    ],
)
def test_a_change_that_can_be_nowhere_is_a_mistake(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_plan(study(changes), source="unit.yaml")


def test_a_stack_that_nobody_has_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no change"):
        make_plan(study(left_out_of="heads"), source="unit.yaml")


def test_the_studies_of_the_repository_change_the_same_things() -> None:
    made = [
        load_study(ROOT / f"config/{name}.yaml").ablation for name in ("ablation", "ablation-tiny")
    ]
    large, tiny = made
    assert large is not None and tiny is not None
    assert (large.base, large.batch_size, large.sequence_length) == (tiny.base, 8, 512)
    assert dict(list(large.changes.items())[:-1]) == tiny.changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("small")
    sizes = {"vocab_size": 200, "hidden_size": 32, "intermediate_size": 64}
    layers = {"num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 64}
    shape: dict[str, Any] = {"model_type": "llama", "tie_word_embeddings": False, **sizes, **layers}
    entry = ModelEntry(name="small", weights="random", architecture=shape)
    (made / "config.json").write_text(json.dumps(random_config(entry)))
    return made


def cells(folder: Path) -> Iterator[AblationSpec]:
    changes = {name: change for name, change in CHANGES.items() if name != "shards"}
    for spec in make_plan(study(changes, model=str(folder)), source="test").runs.values():
        assert isinstance(spec, AblationSpec)
        yield spec


@pytest.mark.slow
def test_every_run_measures_what_was_predicted(folder: Path, tmp_path: Path) -> None:
    peaks = {}
    for spec in cells(folder):
        prediction = predict(read_architecture(str(folder), where="test"), spec, device="cpu")
        found = predicted(prediction.ledger)
        where = {"model_path": str(folder), "num_warmup_steps": 1, "num_timed_steps": 2}
        short = spec.model_copy(update=where)
        assert found == measured(short, tmp_path / "run"), spec.cell
        peaks[spec.cell] = found["peak_bytes"]
    stack = ["bf16", "recompute", "no_state", "lomo"]
    falling = [peaks["-".join(stack[:length]) or "base"] for length in range(2, len(stack) + 1)]
    assert falling == sorted(falling, reverse=True)
