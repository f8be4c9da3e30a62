"""Trainings on instructions: what is scored, what is counted, and what a record tells of it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lomo import cli, methods
from lomo.model.weights import load_model, load_tokenizer
from lomo.pipeline.rules import _one_line
from lomo.record.belief import doubts
from lomo.record.clock import Clock
from lomo.record.evidence import perplexity_of
from lomo.record.remote.summary import summary_of
from lomo.record.schema import InstructTraining, Record
from lomo.run.execute import execute
from lomo.run.instruct.perplexity import log_likelihoods
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.tasks.answers import encode_answers
from lomo.tasks.batches import collate, epoch_batches
from lomo.tasks.instructions import Instruction, draw
from lomo.tasks.tokens import text_encoder

TRAINED = [name for name in methods.MODULES if methods.describe(name).trains]
HYPER: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.3},
    "lomo": {"learning_rate": 0.3},
    "adamw": {"learning_rate": 0.01},
    "adalomo": {"learning_rate": 0.02},
    "lora": {"learning_rate": 0.03, "rank": 8},
    "lora_lomo": {"learning_rate": 0.03, "lomo_learning_rate": 0.3},
}


def spec_of(study: dict[str, Any], method: str, **changes: Any) -> Any:
    plan = make_plan(Study.model_validate(study), source="unit.yaml")
    spec = next(s for s in plan.runs.values() if s.method == method)
    hyper = spec.hyper | HYPER.get(method, {})
    return spec.model_copy(update={"hyper": hyper, **changes})


def run(spec: Any, folder: Path) -> Record:
    record = execute(spec, folder, Clock())
    assert record.status == "ok", record.evidence
    assert doubts(record, spec, folder) == []
    return record


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_every_method_learns_the_answers(
    instruct_dict: dict[str, Any], method: str, tmp_path: Path
) -> None:
    base = run(spec_of(instruct_dict, "zero_shot"), tmp_path / "base")
    record = run(spec_of(instruct_dict, method, epochs=4), tmp_path / "run")
    assert base.training is None and base.result is not None and record.result is not None
    assert record.result.metric == base.result.metric == "perplexity"
    # Adapters alone do little for a base model that was pretrained for a moment.
    assert record.result.value < (0.99 if method == "lora" else 0.95) * base.result.value
    assert [e.split for e in record.evaluations] == ["dev"] * 4 + ["test"]
    training = record.training
    assert isinstance(training, InstructTraining) and training.saved == {}
    assert training.num_steps == 16 and training.num_train_examples == 30


def test_the_perplexity_is_that_of_a_plain_loop(
    instruct_dict: dict[str, Any], tmp_path: Path
) -> None:
    """One example at a time, without padding, in fp64."""
    spec = spec_of(instruct_dict, "zero_shot", eval_batch_size=4)
    record = run(spec, tmp_path)
    drawn = draw(Path(spec.data_path), num_train=30, num_dev=6, num_test=9, seed=0)
    encoder = text_encoder(load_tokenizer(spec.model_path), spec.model_path)
    model = load_model(spec.model_path, dtype="float32", attention="eager", device="cpu").double()
    total, number = 0.0, 0
    for item, sample in zip(drawn.test, lines(tmp_path, "samples.jsonl"), strict=True):
        encoded = encoder.encode(item.prompt, [item.output])
        answer = [*encoded.answers[0], encoder.end_id][: 240 - len(encoded.prompt)]
        tokens = torch.tensor([encoded.prompt + answer])
        told = model(tokens).logits[0].detach().log_softmax(dim=-1)
        start = len(encoded.prompt)
        loss = -sum(float(told[start + i - 1, token]) for i, token in enumerate(answer))
        assert sample["doc_id"] == item.number and sample["num_tokens"] == len(answer)
        assert -sample["log_likelihood"] == pytest.approx(loss, rel=1e-5)
        total, number = total + loss, number + len(answer)
    assert record.result is not None
    assert record.result.other_metrics["num_tokens"] == number
    assert record.result.other_metrics["nll_per_token"] == pytest.approx(total / number, rel=1e-5)
    assert record.result.value == pytest.approx(math.exp(total / number), rel=1e-5)
    # Nobody is told that it is an accuracy.
    assert _one_line(record).split("  ")[2] == f"perplexity {record.result.value:.3f}"
    summary = summary_of(record)
    assert summary["perplexity"] == record.result.value and "accuracy" not in summary


def test_a_model_that_knows_nothing_has_the_vocabulary_as_its_perplexity(
    instruct_dict: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(instruct_dict["instruct"]["models"][0])
    blank = tmp_path / "blank"
    blank.mkdir()
    for file in folder.iterdir():
        (blank / file.name).write_bytes(file.read_bytes())
    weights = load_file(blank / "model.safetensors")
    weights["lm_head.weight"].zero_()
    save_file(weights, blank / "model.safetensors", metadata={"format": "pt"})
    instruct_dict["instruct"]["models"] = [str(blank)]
    record = run(spec_of(instruct_dict, "zero_shot"), tmp_path / "run")
    assert record.result is not None
    assert record.result.value == pytest.approx(weights["lm_head.weight"].shape[0], rel=1e-6)
    assert record.result.stderr == pytest.approx(0.0, abs=1e-3)


def test_its_error_is_that_of_leaving_examples_out() -> None:
    """Closed form against the jackknife; tokens of one example count as one draw."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 60, (400,), generator=generator).tolist()
    noise = torch.randn(400, generator=generator).tolist()
    samples = [
        {"log_likelihood": -length * (2 + 0.5 * z), "num_tokens": length}
        for length, z in zip(lengths, noise, strict=True)
    ]
    found = perplexity_of(samples)
    without = [perplexity_of(samples[:i] + samples[i + 1 :]).value for i in range(400)]
    mean = sum(without) / 400
    jackknife = math.sqrt(399 / 400 * sum((value - mean) ** 2 for value in without))
    assert found.stderr == pytest.approx(jackknife, rel=0.02)
    assert found.num_tokens == sum(lengths)
    (alone,) = [perplexity_of(samples[:1])]
    assert alone.stderr is None


def test_padding_changes_no_score(model_folder: Path) -> None:
    model = load_model(str(model_folder), dtype="float32", attention="sdpa", device="cpu").eval()
    encoder = text_encoder(load_tokenizer(str(model_folder)), str(model_folder))
    items = [Instruction(i, "Say it.", "", "bird " * (1 + 4 * i)) for i in range(5)]
    found = encode_answers(encoder, items, max_length=240, num_rows=400, name="train")
    answers = found.examples
    together = log_likelihoods(model, collate(answers, pad_id=encoder.end_id))
    alone = [log_likelihoods(model, collate([e], pad_id=encoder.end_id))[0] for e in answers]
    assert together == pytest.approx(alone, rel=1e-5)


def test_all_methods_see_the_same_batches(instruct_dict: dict[str, Any], tmp_path: Path) -> None:
    seen = {}
    for method, seed in (("sgd", 42), ("adamw", 42), ("lora", 42), ("sgd", 43)):
        run(spec_of(instruct_dict, method, seed=seed), tmp_path / f"{method}{seed}")
        events = lines(tmp_path / f"{method}{seed}", "history.jsonl")
        seen[method, seed] = [e["num_tokens"] for e in events if e["event"] == "step"]
    assert seen["sgd", 42] == seen["adamw", 42] == seen["lora", 42] != seen["sgd", 43]


def test_what_is_padded_cut_and_left_out_is_counted(
    instruct_dict: dict[str, Any], tmp_path: Path
) -> None:
    spec = spec_of(instruct_dict, "sgd", max_length=160)
    record = run(spec, tmp_path)
    training = record.training
    assert isinstance(training, InstructTraining)
    drawn = draw(Path(spec.data_path), num_train=30, num_dev=6, num_test=9, seed=0)
    encoder = text_encoder(load_tokenizer(spec.model_path), spec.model_path)
    whole = encode_answers(encoder, drawn.train, max_length=160, num_rows=400, name="train")
    assert training.num_left_out == whole.num_left_out > 0
    assert training.num_cut == whole.num_cut > 0
    assert training.num_train_examples == 30 - whole.num_left_out
    batches = [
        batch
        for epoch in (1, 2)
        for batch in epoch_batches(
            whole.examples,
            batching="by_length",
            batch_size=8,
            seed=spec.seed,
            epoch=epoch,
            pad_id=0,
        )
    ]
    assert training.num_tokens == sum(batch.num_tokens for batch in batches)
    padded = sum(batch.input_ids_BS.numel() for batch in batches)
    assert training.num_padding_tokens == padded - training.num_tokens > 0
    assert 2 * training.num_answer_tokens == sum(batch.num_targets for batch in batches)
    # Of those held out, too.
    assert record.result is not None
    assert record.result.num_examples + record.result.other_metrics["num_left_out"] == 9


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ('[{"instruction": "Name a bird."}]', {}, "item 1 (line 1): the example lacks"),
        (None, {"max_length": 20}, "no item of train has room for an answer"),
        ("[]", {}, "the file holds no item"),
    ],
)
def test_bad_data_is_told_before_any_weight_is_loaded(
    instruct_dict: dict[str, Any],
    text: str | None,
    settings: dict[str, Any],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file was changed after the plan was made."""
    model = shutil.copytree(instruct_dict["instruct"]["models"][0], tmp_path / "model")
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    spec = spec_of(instruct_dict, "sgd", model_path=str(model), **settings)
    if text is not None:
        (tmp_path / "items.json").write_text(text)
        spec = spec.model_copy(update={"data_path": str(tmp_path / "items.json")})
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    arguments = ["--spec", str(tmp_path / "spec.json"), "--out", str(tmp_path / "run")]
    assert cli.main(["instruct", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and expected in printed.err and not printed.out
    assert not (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize(("protocol", "split"), [("sound", "dev"), ("paper", "test")])
def test_the_protocol_picks_the_epoch(
    instruct_dict: dict[str, Any], protocol: str, split: str, tmp_path: Path
) -> None:
    instruct_dict["protocol"] = protocol
    record = run(spec_of(instruct_dict, "sgd", epochs=3), tmp_path)
    told = [(e.split, e.epoch) for e in record.evaluations]
    each = [(split, epoch) for epoch in (1, 2, 3)]
    best = min(
        (e for e in record.evaluations if e.split == split), key=lambda e: (e.value, -e.step)
    )
    assert told == each + ([("test", best.epoch)] if split == "dev" else [])
    assert record.result is not None and record.result.split == "test"
    assert record.result.epoch == best.epoch
    assert record.training is not None and record.training.selected_epoch == best.epoch


def test_a_training_that_diverges_is_a_result(
    instruct_dict: dict[str, Any], tmp_path: Path
) -> None:
    spec = spec_of(instruct_dict, "sgd", max_grad_norm=None)
    spec = spec.model_copy(update={"hyper": {**spec.hyper, "learning_rate": 1e30}})
    record = execute(spec, tmp_path, Clock())
    assert record.status == "diverged" and record.evidence is not None
    assert doubts(record, spec, tmp_path) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r, s: s[0].update(log_likelihood=-1.0), "result.value"),
        (lambda r, s: s[0].update(num_tokens=1), "num_tokens"),
        (lambda r, s: s.pop(), "result.num_examples"),
        (lambda r, s: r["result"].update(value=1.5), "result"),
        (lambda r, s: r["training"].update(num_tokens=1), "training.num_tokens"),
    ],
)
def test_a_record_that_its_samples_contradict_is_not_believed(
    instruct_dict: dict[str, Any], change: Any, expected: str, tmp_path: Path
) -> None:
    spec = spec_of(instruct_dict, "sgd")
    run(spec, tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    samples = lines(tmp_path, "samples.jsonl")
    change(record, samples)
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    found = doubts(Record.model_validate(record), spec, tmp_path)
    assert any(expected in doubt for doubt in found), found
