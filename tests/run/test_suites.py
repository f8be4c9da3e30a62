"""A run of a suite: its record and samples, what it does offline, and what it counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lomo.contained.probe import cannot_contain
from lomo.errors import UserError
from lomo.model.weights import load_tokenizer, weights_sha256
from lomo.record import provenance
from lomo.record.clock import Clock
from lomo.record.provenance import fingerprint_of, read_provenance
from lomo.record.suite import SuiteRecord, believed, read_suite_record
from lomo.run.suites import execute, work
from lomo.run.suites.execute import execute_suite, finished_suite
from lomo.run.suites.kept import key_of, take
from lomo.specs import SuiteSpec
from lomo.suites.known import MINIATURE
from lomo.tasks.miniature.suite import write_suite


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites")
    write_suite(folder / "miniature", seed=1)
    return folder


def spec_of(model: Path, data: object, task: str = "miniature", **more: Any) -> SuiteSpec:
    values = {
        "study": "s",
        "run_id": f"suite/m/base/{task}",
        "model": "m",
        "model_path": str(model),
        "seed": None,
        "task": task,
        "data_path": str(data),
        "num_fewshot": None,
        "limit": None,
        "max_gen_toks": None,
        "batch_size": 16,
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "num_threads": 1,
    }
    return SuiteSpec.model_validate(values | more)


def done(spec: SuiteSpec, folder: Path) -> SuiteRecord:
    folder.mkdir(exist_ok=True)
    return execute_suite(spec, folder, Clock())


def test_a_record_says_what_was_scored_and_how(
    model_folder: Path, suites: Path, tmp_path: Path
) -> None:
    spec = spec_of(model_folder, suites, limit=6, num_fewshot=2)
    record = done(spec, tmp_path)
    assert read_suite_record(tmp_path / "record.json") == record
    score = record.score
    assert record.status == "ok" and score is not None
    assert (score.num_examples, score.num_subjects, score.num_fewshot) == (24, 4, 2)
    assert (score.limit, score.num_cut, score.metric) == (6, 0, "acc")
    assert "by text" in score.scoring and score.task_version == "1.0"
    assert len(score.prompts_sha256) == 64 and len(str(score.data_sha256)) == 64
    assert record.model is not None and record.model.weights_sha256
    _, samples = believed(tmp_path / "record.json", spec)
    right = [s["log_likelihoods"].index(max(s["log_likelihoods"])) == s["label"] for s in samples]
    assert [s["outcome"] for s in samples] == [float(each) for each in right]
    assert score.value == pytest.approx(sum(right) / 24)
    assert score.max_gen_toks is None and score.num_unfinished is None
    assert score.missing["num_unfinished"] == "no answer is written"
    parts = ("load_s", "compile_s", "train_s", "evaluate_s", "save_s", "other_s")
    assert sum(getattr(record.clock, part) for part in parts) == pytest.approx(record.clock.wall_s)
    assert finished_suite(spec, tmp_path) == record
    assert finished_suite(spec.model_copy(update={"limit": 5}), tmp_path) is None


def test_batches_do_not_change_what_is_asked(
    model_folder: Path, suites: Path, tmp_path: Path
) -> None:
    scores = []
    for number, batch_size in enumerate((1, 7)):
        spec = spec_of(model_folder, suites, limit=4, batch_size=batch_size)
        record = done(spec, tmp_path / str(number))
        _, samples = believed(tmp_path / str(number) / "record.json", spec)
        scores.append((record.score, [x for s in samples for x in s["log_likelihoods"]]))
    (first, mine), (second, others) = scores
    assert first is not None and second is not None
    assert first.prompts_sha256 == second.prompts_sha256
    assert mine == pytest.approx(others, abs=1e-4)


def test_another_prompt_has_another_hash(model_folder: Path, suites: Path, tmp_path: Path) -> None:
    hashes = set()
    for shots in (0, 1):
        record = done(spec_of(model_folder, suites, limit=2, num_fewshot=shots), tmp_path)
        assert record.score is not None
        hashes.add(record.score.prompts_sha256)
    assert len(hashes) == 2


def test_a_contradicted_record_is_not_believed(
    model_folder: Path, suites: Path, tmp_path: Path
) -> None:
    spec = spec_of(model_folder, suites, limit=2)
    done(spec, tmp_path)
    path, samples = tmp_path / "record.json", tmp_path / "samples.jsonl"
    good, lines = path.read_text(), samples.read_text()
    believed(path, spec)
    data = json.loads(good)
    data["score"]["value"] += 0.125
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"score.value is .*samples.jsonl gives"):
        believed(path, spec)
    path.write_text(good)
    samples.write_text(lines.split("\n", 1)[1])
    with pytest.raises(UserError, match="num_examples is 8, samples.jsonl has 7 lines"):
        believed(path, spec)
    samples.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        believed(path, spec)
    samples.write_text(lines)
    with pytest.raises(UserError, match="spec.limit is 2, the plan says 3"):
        believed(path, spec.model_copy(update={"limit": 3}))
    path.write_text(good[:-40])
    with pytest.raises(UserError, match="it was cut or edited"):
        believed(path, spec)


def test_a_suite_of_the_hub_offline_is_unsupported_and_loads_no_model(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(work, "load_model", never)
    monkeypatch.setattr(work, "load_tokenizer", never)
    record = done(spec_of(model_folder, "hub", task="gsm8k", max_gen_toks=8), tmp_path)
    assert record.status == "unsupported" and record.score is None and record.model is None
    assert record.evidence is not None
    assert record.evidence.startswith("gsm8k comes from the hub, which can't be reached (")
    assert "give `data` a folder with its own files" in record.evidence
    assert not (tmp_path / "samples.jsonl").exists()
    assert read_suite_record(tmp_path / "record.json") == record


def test_prompts_longer_than_the_model_are_counted(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data/gsm8k"
    folder.mkdir(parents=True)
    short, long = "How many?", "How many " * 400
    for split in ("train", "test"):
        found = [{"question": q, "answer": "#### 1"} for q in (short, long)]
        text = "".join(json.dumps(each) + "\n" for each in found)
        (folder / f"{split}.jsonl").write_text(text)
    spec = spec_of(model_folder, tmp_path / "data", task="gsm8k", max_gen_toks=4, num_fewshot=0)
    record = done(spec, tmp_path / "out")
    assert record.score is not None and record.score.num_cut == 1
    assert record.score.metric == "exact_match, strict-match"
    assert "exact_match, flexible-extract" in record.score.other_metrics
    _, samples = believed(tmp_path / "out/record.json", spec)
    assert all(isinstance(sample["generated"], str) for sample in samples)


def test_answers_that_take_all_their_tokens_are_counted(model_folder: Path, tmp_path: Path) -> None:
    """What is cut off is scored as it stands: a small `max_gen_toks` must not pass for a model."""
    folder = tmp_path / "data/gsm8k"
    folder.mkdir(parents=True)
    found = [{"question": f"How many are {n}?", "answer": "#### 1"} for n in range(6)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(f) + "\n" for f in found))
    spec = spec_of(model_folder, tmp_path / "data", task="gsm8k", max_gen_toks=2, num_fewshot=0)
    record = done(spec, tmp_path / "out")
    assert record.score is not None and record.score.max_gen_toks == 2
    _, samples = believed(tmp_path / "out/record.json", spec)
    tokenizer = load_tokenizer(str(model_folder))
    for sample in samples:
        # What is shorter than it may be has ended.
        if len(tokenizer(sample["generated"], add_special_tokens=False)["input_ids"]) < 2:
            assert sample["finished"]
    assert record.score.num_unfinished == sum(not sample["finished"] for sample in samples) > 0
    path = tmp_path / "out/record.json"
    path.write_text(path.read_text().replace('"num_unfinished": ', '"num_unfinished": 9'))
    with pytest.raises(UserError, match="num_unfinished"):
        believed(path, spec)


def test_an_answer_that_fills_the_model_is_refused_before_it_is_loaded(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data/gsm8k"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        text = json.dumps({"question": "q", "answer": "#### 1"}) + "\n"
        (folder / f"{split}.jsonl").write_text(text)
    monkeypatch.setattr(work, "load_model", lambda *_, **__: pytest.fail("loaded"))
    spec = spec_of(model_folder, tmp_path / "data", task="gsm8k", max_gen_toks=256, num_fewshot=0)
    with pytest.raises(UserError, match="an answer of 256 tokens leaves no room"):
        done(spec, tmp_path / "out")
    assert not (tmp_path / "out/record.json").exists()


def test_few_shots_of_a_fixed_prompt_are_refused(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "truthfulqa").mkdir()
    item = {"question": "q", "mc1_targets": {"yes": 1, "no": 0}, "mc2_targets": {"yes": 1}}
    (tmp_path / "truthfulqa/mc_task.json").write_text(json.dumps([item]))
    spec = spec_of(model_folder, tmp_path, task="truthfulqa_mc1", num_fewshot=2)
    with pytest.raises(UserError, match="2 solved examples, and truthfulqa_mc1 takes none"):
        done(spec, tmp_path / "out")


def test_running_out_of_memory_is_a_result(
    model_folder: Path, suites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1")

    monkeypatch.setattr(execute, "work", full)
    record = done(spec_of(model_folder, suites), tmp_path)
    assert record.status == "oom" and "can't allocate memory" in str(record.evidence)


@pytest.mark.skipif(cannot_contain() is not None, reason=str(cannot_contain()))
def test_humaneval_runs_what_was_written_and_nothing_else(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data/humaneval").mkdir(parents=True)
    problem = {
        "task_id": "Own/0",
        "prompt": 'def half(x):\n    """Half of x."""\n',
        "entry_point": "half",
        "canonical_solution": "    return x / 2\n",
        "test": "def check(candidate):\n    assert candidate(3) == 1.5\n",
    }
    other = problem | {"task_id": "Own/1"}
    text = json.dumps(problem) + "\n" + json.dumps(other) + "\n"
    (tmp_path / "data/humaneval/HumanEval.jsonl").write_text(text)
    written = iter(["    return x / 2\n", "    return x\n\nprint('passed')"])

    def generate(self: Any, requests: Any, disable_tqdm: bool = True) -> list[str]:
        assert requests[0].args[1]["max_gen_toks"] == 16
        return [next(written) for _ in requests]

    monkeypatch.setattr("lomo.run.suites.lm.SuiteLM.generate_until", generate)
    spec = spec_of(model_folder, tmp_path / "data", task="humaneval", max_gen_toks=16)
    record = done(spec, tmp_path / "out")
    _, samples = believed(tmp_path / "out/record.json", spec)
    assert [sample["outcome"] for sample in samples] == [1.0, 0.0]
    assert record.score is not None and record.score.value == 0.5


def test_the_same_weights_are_asked_the_same_once(
    model_folder: Path, suites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = tmp_path / "scores"
    spec = spec_of(model_folder, suites, limit=2)
    first = execute_suite(spec, tmp_path, Clock(), scores)
    assert first.reused_from is None and len(list(scores.glob("*.json"))) == 1
    copied = tmp_path / "copied"
    shutil.copytree(model_folder, copied)
    monkeypatch.setattr(work, "load_model", lambda *_, **__: pytest.fail("loaded"))
    again = spec.model_copy(
        update={"study": "other", "model": "n", "model_path": str(copied), "run_id": "suite/n/b"}
    )
    (tmp_path / "again").mkdir()
    second = execute_suite(again, tmp_path / "again", Clock(), scores)
    assert second.reused_from == "s: suite/m/base/miniature" and second.score == first.score
    assert second.model is not None and second.model.name == "n"
    (kept,) = scores.glob("*.json")
    own, samples = believed(tmp_path / "again/record.json", again)
    assert (own, samples) == (second, believed(tmp_path / "record.json", spec)[1])
    data = json.loads(kept.read_text())
    data["samples"].pop()
    kept.write_text(json.dumps(data))
    assert take(scores, kept.stem) is None


def test_an_edited_prompt_of_the_miniature_is_another_code(
    model_folder: Path, suites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = spec_of(model_folder, suites), spec_of(model_folder, suites, task="mmlu")
    before = fingerprint_of(own), fingerprint_of(other)
    edited = tmp_path / "miniature.yaml"
    edited.write_text(MINIATURE.read_text().replace("Answer:", "It is:"))
    monkeypatch.setattr(provenance, "MINIATURE", edited)
    provenance._of_suite.cache_clear()
    assert fingerprint_of(own) != before[0] and fingerprint_of(other) == before[1]
    edited.write_text("# told\n" + MINIATURE.read_text())
    provenance._of_suite.cache_clear()
    assert fingerprint_of(own) == before[0]
    provenance._of_suite.cache_clear()


@pytest.mark.parametrize("change", ["limit", "tokenizer", "question", "dtype"])
def test_what_a_score_hangs_on_is_in_its_key(
    change: str, model_folder: Path, suites: Path, tmp_path: Path
) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(model_folder, model)
    shutil.copytree(suites, data)
    spec = spec_of(model, data, limit=2)
    before = keyed(spec)
    assert keyed(spec) == before
    if change == "tokenizer":
        path = model / "tokenizer_config.json"
        path.write_text(path.read_text() + "\n")
    elif change == "question":
        path = next(data.rglob("*_dev.csv"))
        path.write_text(path.read_text().replace(".", "!", 1))
    else:
        update = {"limit": 3} if change == "limit" else {"dtype": "bfloat16"}
        spec = spec.model_copy(update=update)
    assert keyed(spec) != before


def keyed(spec: SuiteSpec) -> str:
    data = work.data_sha256(spec)
    assert data is not None
    here = read_provenance(spec, "cpu")
    return key_of(spec, str(weights_sha256(spec.model_path)), data, here)


def test_where_a_training_saved_no_model_there_is_nothing_to_score(
    suites: Path, tmp_path: Path
) -> None:
    model = tmp_path / "tuned"
    model.mkdir()
    told = {"saved": False, "by": "instruct/m/lomo/s1/t0", "reason": "the run's status is diverged"}
    (model / "saved.json").write_text(json.dumps(told))
    record = done(spec_of(model, suites), tmp_path / "run")
    assert record.status == "unsupported" and record.score is None
    why = "instruct/m/lomo/s1/t0 saved no model: the run's status is diverged"
    assert record.evidence == why
