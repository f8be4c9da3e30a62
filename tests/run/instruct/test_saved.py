"""The trained model as a folder: it loads as any model does, and is the model that was reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lomo import cli
from lomo.model.weights import load_model, load_tokenizer, weights_sha256
from lomo.record.clock import Clock
from lomo.record.made import origin_of
from lomo.record.schema import Evaluation, InstructTraining, Record, read_record
from lomo.run.execute import execute
from lomo.run.instruct import work
from lomo.study.config import Study
from lomo.study.plan import make_plan

TOKENS = torch.arange(5, 45).view(2, 20)


def spec_of(study: dict[str, Any], method: str, folder: Path, **changes: Any) -> Any:
    study["instruct"] |= {"save": True, "methods": [method]}
    plan = make_plan(Study.model_validate(study), source="unit.yaml")
    spec = next(iter(plan.runs.values()))
    rate = {"learning_rate": 0.05} if method != "zero_shot" else {}
    changes = {"tuned_path": str(folder / "tuned"), **changes}
    return spec.model_copy(update={"hyper": spec.hyper | rate, **changes})


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


def saved_facts(record: Record) -> dict[str, Any]:
    assert record.status == "ok", record.evidence
    assert isinstance(record.training, InstructTraining)
    return record.training.saved


def test_the_plan_says_where(instruct_dict: dict[str, Any]) -> None:
    instruct_dict["instruct"] |= {"save": True, "methods": ["lora"], "seeds": [1, 2, 3]}
    plan = make_plan(Study.model_validate(instruct_dict), source="unit.yaml")
    places = [run.tuned_path for run in plan.runs.values()]  # type: ignore[union-attr]
    assert places == [f"results/unit/tuned/test/lora-r2/s{seed}/t0" for seed in (1, 2, 3)]
    assert list(plan.runs) == [f"instruct/test/lora-r2/s{seed}/t0" for seed in (1, 2, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lomo", "adamw", "lora"])
def test_the_folder_has_the_logits_of_the_model_in_memory(
    instruct_dict: dict[str, Any],
    method: str,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, seen = work.save_tuned, {}

    def save(model: Any, *arguments: Any) -> dict[str, Any]:
        seen["as it was"] = logits(model)
        told = real(model, *arguments)
        seen["in memory"] = logits(model.base_model if method == "lora" else model)
        return told

    monkeypatch.setattr(work, "save_tuned", save)
    spec = spec_of(instruct_dict, method, tmp_path, dtype=dtype)
    told = saved_facts(execute(spec, tmp_path / "run", Clock()))
    loaded = load_model(spec.tuned_path, dtype=dtype, attention="sdpa", device="cpu")
    base = load_model(spec.model_path, dtype=dtype, attention="sdpa", device="cpu")
    assert torch.equal(logits(loaded), seen["in memory"])
    assert not torch.equal(logits(loaded), logits(base))
    if method == "lora":
        near = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.1, "atol": 0.02}
        torch.testing.assert_close(seen["as it was"], seen["in memory"], **near)  # type: ignore[arg-type]
        assert told["merged"] == f"adapters are added to the weights, in {dtype}"
    else:
        assert torch.equal(seen["as it was"], seen["in memory"]) and "merged" not in told
    stored = load_file(Path(spec.tuned_path) / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{dtype}"}


def test_tokenizer_and_notes_are_there(instruct_dict: dict[str, Any], tmp_path: Path) -> None:
    spec = spec_of(instruct_dict, "sgd", tmp_path)
    base = shutil.copytree(spec.model_path, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"use_cache": True}))
    spec = spec.model_copy(update={"model_path": str(base)})
    folder = spec.tuned_path
    told = saved_facts(execute(spec, tmp_path / "run", Clock()))
    text = "### Instruction: name a bird, 12 \u00e9"
    ids = [load_tokenizer(f)(text)["input_ids"] for f in (spec.tuned_path, spec.model_path)]
    assert ids[0] == ids[1]
    note = json.loads((tmp_path / "tuned" / "saved.json").read_text())
    assert note == told and note["by"] == spec.run_id and note["tuned_from"] == "test"
    sha256 = weights_sha256(spec.tuned_path)
    assert sha256 == note["weights_sha256"]
    # A record of a run that begins from this folder tells it.
    assert origin_of(tmp_path / "tuned", sha256)["by"] == spec.run_id
    configs = [json.loads(Path(f, "config.json").read_text()) for f in (folder, spec.model_path)]
    assert configs[0]["use_cache"] is configs[1]["use_cache"] is True


@pytest.mark.parametrize("protocol", ["sound", "paper"])
def test_it_is_the_epoch_that_is_reported(
    instruct_dict: dict[str, Any],
    protocol: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Epoch 1 of two is made the best: what is saved is what one epoch alone gives."""
    instruct_dict["protocol"] = protocol
    instruct_dict["instruct"]["settings"]["schedule"] = "constant"
    spec = spec_of(instruct_dict, "sgd", tmp_path)
    spec.hyper["warmup_ratio"] = 0.0
    monkeypatch.setattr(Evaluation, "goodness", property(lambda self: -self.epoch))
    record = execute(spec, tmp_path / "two", Clock())
    assert record.result is not None and record.result.epoch == 1
    one = spec.model_copy(update={"epochs": 1, "tuned_path": str(tmp_path / "one")})
    execute(one, tmp_path / "alone", Clock())
    files = [tmp_path / name / "model.safetensors" for name in ("tuned", "one")]
    assert files[0].read_bytes() == files[1].read_bytes()


def instruct(spec: Any, folder: Path) -> int:
    (folder / "spec.json").write_text(spec.model_dump_json())
    return cli.main(["instruct", "--spec", str(folder / "spec.json"), "--out", str(folder / "run")])


@pytest.mark.parametrize(
    ("method", "changes", "reason"),
    [
        ("zero_shot", {}, "nothing is trained"),
        ("sgd", {"timeout_s": 1e-6}, "the run's status is timeout"),
    ],
)
def test_where_nothing_is_saved_a_note_says_why(
    instruct_dict: dict[str, Any], method: str, changes: Any, reason: str, tmp_path: Path
) -> None:
    spec = spec_of(instruct_dict, method, tmp_path, **changes)
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "model.safetensors").write_text("of an earlier run")
    assert instruct(spec, tmp_path) == 0
    assert read_record(tmp_path / "run" / "record.json").status in ("ok", "timeout")
    (left,) = (tmp_path / "tuned").iterdir()
    note = json.loads(left.read_text())
    assert left.name == "saved.json" and not note["saved"] and note["reason"] == reason
