"""One run, from spec to record: every method trains, is scored, and fails as a result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lomo import methods
from lomo.errors import UserError
from lomo.model.weights import load_model, load_tokenizer
from lomo.record.belief import doubts
from lomo.record.clock import Clock
from lomo.record.schema import Record, read_record
from lomo.run import execute as run_module
from lomo.run.evaluate import _per_example, load_task
from lomo.run.execute import execute
from lomo.specs import MeasureSpec, TrainSpec
from lomo.study.config import Study
from lomo.study.plan import Plan, make_plan
from lomo.tasks.tokens import text_encoder

Trained = Callable[[Plan, str], Path]

METHODS = [name for name in methods.MODULES if methods.describe(name).trains]


@pytest.fixture
def plan(study_dict: dict[str, Any]) -> Plan:
    return make_plan(Study.model_validate(study_dict), source="unit.yaml")


def spec_of(plan: Plan, method: str, kind: str = "train", **changes: Any) -> Any:
    spec = next(s for s in plan.runs.values() if s.method == method and s.kind == kind)
    return spec.model_copy(update=changes)


def run(spec: TrainSpec | MeasureSpec, folder: Path) -> Record:
    """The record of a run, however it ended: each is believed."""
    record = execute(spec, folder, Clock())
    assert doubts(read_record(folder / "record.json"), spec, folder) == []
    return record


def history(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for line in lines if (entry := json.loads(line))["event"] == event]


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [entry["loss"] for entry in steps]


def brisk(plan: Plan, method: str, **changes: Any) -> Any:
    """The spec of a training run whose loss falls within its eight steps."""
    rate = {"lora": 0.01, "adamw": 0.003, "adalomo": 0.01}.get(method, 0.1)
    spec = spec_of(plan, method)
    return spec.model_copy(update={"hyper": {**spec.hyper, "learning_rate": rate}, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The folder of the brisk run of a method, made once for all tests that only read it."""
    made: dict[str, Path] = {}

    def folder(plan: Plan, method: str) -> Path:
        if method not in made:
            made[method] = tmp_path_factory.mktemp(method)
            record = run(brisk(plan, method), made[method])
            assert record == read_record(made[method] / "record.json")
        return made[method]

    return folder


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_scored(plan: Plan, method: str, trained: Trained) -> None:
    folder = trained(plan, method)
    record = read_record(folder / "record.json")
    assert record.status == "ok"
    assert record.training is not None and record.result is not None
    assert record.training.num_steps == 8
    assert record.training.last_epoch_loss < record.training.first_epoch_loss
    assert record.result.split == "test" and record.result.num_examples == 16
    assert [e.split for e in record.evaluations] == ["dev", "dev", "test"]
    assert len((folder / "samples.jsonl").read_text().splitlines()) == 16
    assert len(history(folder, "step")) == 8
    assert not list((folder / "checkpoints").glob("*")), "kept weights are gone at the end"


def test_zero_shot_is_scored_and_trains_nothing(plan: Plan, tmp_path: Path) -> None:
    record = run(spec_of(plan, "zero_shot"), tmp_path)
    assert record.status == "ok" and record.result is not None
    assert record.training is None and "nothing is trained" in record.missing["training"]
    assert record.model is not None and record.model.num_trainable_parameters == 0


def test_methods_see_the_same_batches_in_the_same_order(plan: Plan, trained: Trained) -> None:
    tokens = [[e["num_tokens"] for e in history(trained(plan, m), "step")] for m in ("sgd", "lora")]
    assert tokens[0] == tokens[1]
    assert len(set(tokens[0])) > 1


def test_lomo_trains_as_sgd_does(plan: Plan, trained: Trained) -> None:
    sgd, lomo = (history(trained(plan, method), "step") for method in ("sgd", "lomo"))
    assert losses(sgd) == pytest.approx(losses(lomo), abs=1e-5)
    norms = [[e["grad_norm"] for e in steps] for steps in (sgd, lomo)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize("method", ["lomo", "lora_lomo"])
def test_the_fused_head_loss_trains_and_is_scored_alike(
    plan: Plan, method: str, trained: Trained, tmp_path: Path
) -> None:
    fused = run(brisk(plan, method, head_loss="fused"), tmp_path)
    own = trained(plan, method)
    own_losses = losses(history(own, "step"))
    assert own_losses == pytest.approx(losses(history(tmp_path, "step")), abs=1e-5)
    assert read_record(own / "record.json").result == fused.result


def test_accumulation_equals_the_whole_batch(plan: Plan, trained: Trained, tmp_path: Path) -> None:
    run(brisk(plan, "sgd", gradient_accumulation=4), tmp_path)
    whole = losses(history(trained(plan, "sgd"), "step"))
    assert whole == pytest.approx(losses(history(tmp_path, "step")), abs=1e-5)


def test_a_run_is_repeated_bit_for_bit(plan: Plan, trained: Trained, tmp_path: Path) -> None:
    run(brisk(plan, "lora_lomo"), tmp_path)
    assert losses(history(trained(plan, "lora_lomo"), "step")) == losses(history(tmp_path, "step"))


def test_the_clock_adds_up_and_evaluation_is_not_in_the_throughput(
    plan: Plan, trained: Trained
) -> None:
    folder = trained(plan, "lomo")
    clock = read_record(folder / "record.json").clock
    phases = clock.load_s + clock.compile_s + clock.train_s + clock.evaluate_s + clock.save_s
    assert phases + clock.other_s == pytest.approx(clock.wall_s, rel=1e-6)
    assert phases == pytest.approx(clock.wall_s, rel=0.01)
    assert sum(e["step_s"] for e in history(folder, "step")) <= clock.train_s
    assert clock.evaluate_s > 0


def test_the_epoch_is_selected_on_dev_and_its_weights_are_scored(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dev says that epoch 1 of 2 is best: test must be scored with the weights of epoch 1."""
    from lomo.run import evaluate

    real, seen = evaluate.score, {}

    def scripted(lm: Any, task: Any, *, split: str, step: int, epoch: int) -> Any:
        evaluation, samples = real(lm, task, split=split, step=step, epoch=epoch)  # type: ignore[arg-type]
        weight = next(p for p in lm.model.parameters() if p.requires_grad)
        seen[(split, len(seen))] = weight.detach().clone()
        if split == "dev":
            evaluation = evaluation.model_copy(update={"value": {1: 0.9, 2: 0.1}[epoch]})
        return evaluation, samples

    monkeypatch.setattr(evaluate, "score", scripted)
    record = run(spec_of(plan, "lomo"), tmp_path)
    first, second, tested = seen.values()
    assert record.result is not None and record.result.epoch == 1
    assert record.training is not None and record.training.selected_epoch == 1
    assert torch.equal(first, tested) and not torch.equal(first, second)


def test_the_papers_way_reports_the_best_on_test(plan: Plan, tmp_path: Path) -> None:
    record = run(spec_of(plan, "lomo", protocol="paper"), tmp_path)
    assert [e.split for e in record.evaluations] == ["test", "test"]
    assert record.result is not None
    assert record.result.value == max(e.value for e in record.evaluations)


def test_both_scores_are_told(plan: Plan, tmp_path: Path) -> None:
    """COPA's candidates differ in length: each is scored again, a token after the other."""
    spec = spec_of(plan, "zero_shot").model_copy(update={"task": "copa", "num_test": 20})
    record = run(spec, tmp_path)
    assert record.result is not None
    encoder = text_encoder(load_tokenizer(spec.model_path), spec.model_path)
    model = load_model(spec.model_path, dtype="float32", attention="sdpa", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    task, right = load_task(spec, "test"), {"acc": 0, "acc_token_mean": 0}
    for line, document in zip(lines, task.test_docs(), strict=True):
        choices = [f" {choice}" for choice in task.doc_to_choice(document)]
        encoded = encoder.encode(task.fewshot_context(document, 0), choices)
        assert line["num_tokens"] == [len(tokens) for tokens in encoded.answers]
        totals = [_log_likelihood(model, encoded.prompt, tokens) for tokens in encoded.answers]
        assert line["log_likelihoods"] == pytest.approx(totals, abs=1e-4)
        means = [t / len(a) for t, a in zip(totals, encoded.answers, strict=True)]
        for metric, scores in (("acc", totals), ("acc_token_mean", means)):
            right[metric] += scores.index(max(scores)) == line["label"]
    assert len({tuple(line["num_tokens"]) for line in lines}) > 1
    assert record.result.value == right["acc"] / 20
    assert record.result.other_metrics["acc_token_mean"] == right["acc_token_mean"] / 20


def test_a_longer_candidate_may_win_by_the_mean() -> None:
    sample = {"doc_id": 7, "target": 1, "filtered_resps": [(-3.0, 0), (-4.0, 0)]}
    sample |= {"metrics": ["acc"], "acc": 0.0}
    (told,) = _per_example([sample], {7: [1, 2]}, None)
    assert (told["acc"], told["acc_token_mean"], told["num_tokens"]) == (0.0, 1.0, [1, 2])


@torch.no_grad()
def _log_likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
    tokens = torch.tensor([*prompt, *answer])
    scores = model(tokens[None]).logits[0].log_softmax(-1)
    return sum(float(scores[i - 1, tokens[i]]) for i in range(len(prompt), len(tokens)))


def test_divergence_is_a_result(plan: Plan, tmp_path: Path) -> None:
    spec = spec_of(plan, "sgd", hyper={"learning_rate": 1e30, "warmup_ratio": 0.0})
    record = run(spec.model_copy(update={"max_grad_norm": None}), tmp_path)
    assert record.status == "diverged" and record.result is None
    assert record.evidence is not None and record.evidence.step is not None
    assert "nan" in record.evidence.message or "inf" in record.evidence.message


def test_weights_that_the_last_step_spoilt_are_no_score(plan: Plan, tmp_path: Path) -> None:
    """No later loss shows it: only the scores do."""
    spec = spec_of(plan, "sgd", hyper={"learning_rate": 1e38, "warmup_ratio": 0.0})
    record = run(spec.model_copy(update={"epochs": 1, "batch_size": 32}), tmp_path)
    assert record.training is not None and record.training.num_steps == 1
    assert record.status == "diverged" and record.result is None and not record.evaluations


def test_a_model_that_tells_nothing_is_no_score(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All candidates of all examples tie: the accuracy would be the rate of the first label."""
    from lomo.run.evaluate import QuietLM

    def dumb(lm: QuietLM, requests: Any, **_: Any) -> Any:
        return [(-1.5, False)] * len(requests)

    monkeypatch.setattr(QuietLM, "_loglikelihood_tokens", dumb)
    record = run(spec_of(plan, "zero_shot"), tmp_path)
    assert record.status == "diverged" and record.result is None and not record.evaluations
    assert record.evidence is not None and "same score" in record.evidence.message


def test_cut_examples_are_counted(plan: Plan, tmp_path: Path) -> None:
    spec = spec_of(plan, "lomo").model_copy(update={"epochs": 1, "max_length": 60})
    record = run(spec, tmp_path / "cut")
    assert record.training is not None and record.result is not None
    assert 0 < record.training.num_cut <= record.training.num_train_examples
    tokenizer = load_tokenizer(spec.model_path)
    prompts = [
        task.fewshot_context(d, 0) for task in [load_task(spec, "test")] for d in task.test_docs()
    ]
    longest = [
        max(len(tokenizer.encode(p + answer)) for answer in (" Yes", " No")) for p in prompts
    ]
    assert record.result.num_cut == sum(length > 61 for length in longest) > 0
    whole = run(spec.model_copy(update={"max_length": 200}), tmp_path / "whole")
    assert whole.training is not None and whole.training.num_cut == 0
    assert {evaluation.num_cut for evaluation in whole.evaluations} == {0}


def test_examples_of_test_that_are_trained_on_are_counted(
    plan: Plan, tmp_path: Path, data_folder: Path
) -> None:
    spec = spec_of(plan, "lomo").model_copy(
        update={"epochs": 1, "data_path": str(tmp_path / "data"), "num_dev": 0, "protocol": "paper"}
    )
    shutil.copytree(data_folder, tmp_path / "data")
    train, val = ((tmp_path / "data" / "RTE" / f"{n}.jsonl").read_text() for n in ("train", "val"))
    few = "".join(val.splitlines(keepends=True)[:3])
    (tmp_path / "data" / "RTE" / "train.jsonl").write_text(few)
    (tmp_path / "data" / "RTE" / "val.jsonl").write_text(val + train[: train.index("\n") + 1])
    record = run(spec.model_copy(update={"num_test": 1000}), tmp_path / "1")
    assert record.training is not None and record.training.num_test_seen == 3


def test_skipped_steps_are_counted(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lomo.optim.arithmetic.scaling import GradientNorms

    monkeypatch.setattr(GradientNorms, "read", lambda *_: float("inf"))
    record = run(spec_of(plan, "lomo"), tmp_path)
    assert record.training is not None
    assert record.training.num_skipped_steps == record.training.num_steps == 8


@pytest.mark.parametrize("method", ["lomo", "adalomo", "sgd", "adamw", "lora", "lora_lomo"])
def test_a_bad_step_leaves_weights_and_state_alone(plan: Plan, method: str) -> None:
    import torch

    from lomo.engines.single import training_step
    from lomo.methods import prepare
    from lomo.tasks.batches import random_batch

    spec = spec_of(plan, method)
    model = load_model(spec.model_path, dtype="float32", attention="sdpa", device="cpu")
    prepared = prepare(method)(model, spec, lambda model: model)
    before = {name: p.detach().clone() for name, p in prepared.model.named_parameters()}
    batch = random_batch(vocabulary=400, batch_size=2, sequence_length=8, seed=0, device="cpu")
    prepared.model.register_forward_hook(
        lambda module, arguments, output: setattr(output, "loss", output.loss * float("nan"))
    )
    optimizers = [optimizer for optimizer, _ in prepared.optimizers]
    result = training_step(prepared.model, optimizers, [batch], max_grad_norm=1.0)
    assert result.skipped
    for name, parameter in prepared.model.named_parameters():
        assert torch.equal(parameter.detach(), before[name]), name
    assert not any(optimizer.state for optimizer in optimizers)


def test_an_infinite_loss_of_a_measured_step_is_divergence(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lomo.engines.single import StepResult
    from lomo.run import measure

    monkeypatch.setattr(measure, "training_step", lambda *_, **__: StepResult(float("inf"), None))
    assert run(spec_of(plan, "lomo", "measure"), tmp_path).status == "diverged"


def test_the_papers_way_holds_nothing_back_for_dev(study_dict: dict[str, Any]) -> None:
    study = Study.model_validate({**study_dict, "protocol": "paper"})
    specs = make_plan(study, source="unit.yaml").runs.values()
    assert {spec.num_dev for spec in specs if isinstance(spec, TrainSpec)} == {0}


def test_running_out_of_time_is_a_result(plan: Plan, tmp_path: Path) -> None:
    record = run(spec_of(plan, "sgd", timeout_s=1e-6), tmp_path)
    assert record.status == "timeout" and record.evidence is not None


def test_running_out_of_memory_is_a_result(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lomo.run import loop

    def greedy(*_: Any, **__: Any) -> Any:
        return torch.empty(2**58, dtype=torch.uint8)

    monkeypatch.setattr(loop, "training_step", greedy)
    record = run(spec_of(plan, "lomo"), tmp_path)
    assert record.status == "oom" and record.evidence is not None
    assert "memory" in record.evidence.message and record.evidence.step == 1


def test_a_bug_is_not_a_result(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lomo.run import loop

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(loop, "training_step", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(spec_of(plan, "lomo"), tmp_path)
    assert not (tmp_path / "record.json").exists()


def test_cuda_asked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        run_module.choose_device("cuda")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_is_measured(plan: Plan, method: str, checkpointing: bool, tmp_path: Path) -> None:
    spec = spec_of(plan, method, "measure", activation_checkpointing=checkpointing)
    record = run(spec, tmp_path)
    assert record.status == "ok", record.evidence
    memory, model = record.memory, record.model
    assert memory is not None and model is not None and record.throughput is not None
    parts = memory.at_peak.model_dump(exclude={"missing"})
    assert sum(parts.values()) == memory.peak_bytes
    terms = memory.sum_of_terms
    assert terms.parameters_bytes == model.parameters_bytes
    per_parameter = terms.optimizer_state_bytes / model.num_parameters
    if method in ("lomo", "adalomo", "lora_lomo"):
        assert memory.gradients_peak_bytes >= model.largest_parameter_bytes
    expected = {"lomo": 0.0, "sgd": 4.0, "adamw": 12.0}
    if method == "lomo":
        assert memory.gradients_peak_bytes == model.largest_parameter_bytes
    if method in expected:
        assert per_parameter == pytest.approx(expected[method], abs=0.01)
    assert record.throughput.padding_fraction == 0
    timeline = (tmp_path / "timeline.jsonl").read_text().splitlines()
    assert any(json.loads(line)["event"] == "peak" for line in timeline)
