"""Examples score here as by lm-eval's own command line: same model, same local files.

The command line reads them by its own reader (`datasets`, from JSON lines that this test writes of
the authors' files), with lm-eval's own YAMLs; nothing of this project is in that process.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lomo.model.weights import load_model, load_tokenizer
from lomo.run import evaluate
from lomo.run.suites.lm import SuiteLM
from lomo.run.suites.score import first_problems, score_tasks
from lomo.run.suites.tasks import load_tasks
from lomo.specs import SuiteSpec, TaskSpec
from lomo.suites.humaneval import STOPS
from lomo.tasks.tokens import text_encoder

pytestmark = pytest.mark.slow

YAMLS = Path(lm_eval.__file__).parent / "tasks"
SUBJECTS = ("anatomy", "abstract_algebra", "world_religions")
BBH = ("boolean_expressions", "navigate")
TASKS = ("rte", "boolq", "wsc", "wic", "multirc", "copa")
LIMIT, SHOTS, TOKENS, BATCH = 5, 2, 16, 4
TRUTHS = [
    {
        "question": "What does the sun do at night?",
        "mc1_targets": {"It is day elsewhere": 1, "It sleeps": 0, "It goes out": 0},
        "mc2_targets": {"It is day elsewhere": 1, "It shines on others": 1, "It sleeps": 0},
    },
    {
        "question": "Can a little girl fly?",
        "mc1_targets": {"No, she can't": 1, "Yes, with a cape": 0},
        "mc2_targets": {"No, she can't": 1, "Only in an airplane": 1, "Yes, with a cape": 0},
    },
    {
        "question": "Is the moon made of cheese?",
        "mc1_targets": {"It is made of rock": 1, "It is": 0, "It is made of milk": 0},
        "mc2_targets": {"It is made of rock": 1, "It is": 0, "It is made of milk": 0},
    },
]


def lines(path: Path, objects: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(each) + "\n" for each in objects))
    return str(path)


def questions(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [
        {"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])} for row in rows
    ]


def write_yaml(folder: Path, name: str, original: Path, files: dict[str, str], **more: Any) -> None:
    """lm-eval's own YAML, with the documents from files."""
    config = {
        "include": str(original),
        "task": f"cli_{name}",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        **more,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(config, indent=1))


@pytest.fixture(scope="module")
def data(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmarks of the test data, and a TruthfulQA of our own beside them."""
    folder = tmp_path_factory.mktemp("suites")
    for name in ("mmlu", "bbh", "gsm8k", "humaneval"):
        (folder / name).symlink_to(test_data / "benchmarks" / name)
    (folder / "truthfulqa").mkdir()
    (folder / "truthfulqa" / "mc_task.json").write_text(json.dumps(TRUTHS))
    return folder


@pytest.fixture(scope="module")
def told(data: Path, test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command line logs of each task: its examples by (document, filter)."""
    folder = tmp_path_factory.mktemp("cli")
    for subject in SUBJECTS:
        files = {
            split: lines(folder / f"{subject}_{split}.jsonl", questions(path))
            for split in ("dev", "test")
            for path in [data / "mmlu" / split / f"{subject}_{split}.csv"]
        }
        original = YAMLS / "mmlu/default" / f"mmlu_{subject}.yaml"
        write_yaml(folder, f"mmlu_{subject}", original, files, num_fewshot=SHOTS)
    for subject in BBH:
        found = json.loads((data / "bbh" / f"{subject}.json").read_text())["examples"]
        files = {"test": lines(folder / f"{subject}.jsonl", found)}
        original = YAMLS / "bbh/cot_fewshot" / f"{subject}.yaml"
        write_yaml(folder, f"bbh_cot_fewshot_{subject}", original, files, num_fewshot=1)
    files = {split: str(data / "gsm8k" / f"{split}.jsonl") for split in ("train", "test")}
    write_yaml(folder, "gsm8k", YAMLS / "gsm8k/gsm8k.yaml", files, num_fewshot=SHOTS)
    truths = [
        {
            "question": each["question"],
            **{
                name: {"choices": list(each[name]), "labels": list(each[name].values())}
                for name in ("mc1_targets", "mc2_targets")
            },
        }
        for each in TRUTHS
    ]
    files = {"validation": lines(folder / "truths.jsonl", truths)}
    for name in ("truthfulqa_mc1", "truthfulqa_mc2"):
        write_yaml(folder, name, YAMLS / "truthfulqa" / f"{name}.yaml", files)
    model = test_data / "weights/tinystories-656k"
    names = [path.stem for path in sorted(folder.glob("*.yaml"))]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "run", "--model", "hf"),
            *("--model_args", f"pretrained={model},dtype=float32"),
            *("--tasks", ",".join(f"cli_{name}" for name in names)),
            *("--include_path", str(folder), "--limit", str(LIMIT), "--batch_size", str(BATCH)),
            *("--device", "cpu", "--gen_kwargs", f"max_gen_toks={TOKENS}"),
            *("--output_path", str(folder / "out"), "--log_samples"),
        ],
        env={**os.environ, "HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = {}
    for name in names:
        (path,) = (folder / "out").rglob(f"samples_cli_{name}_*.jsonl")
        logged = [json.loads(line) for line in path.read_text().splitlines()]
        found[name] = {(line["doc_id"], line["filter"]): line for line in logged}
    return found


@pytest.fixture(scope="module")
def lm(test_data: Path) -> SuiteLM:
    folder = str(test_data / "weights/tinystories-656k")
    torch.set_num_threads(1)
    model = load_model(folder, dtype="float32", attention="sdpa", device="cpu").eval()
    return SuiteLM(model, load_tokenizer(folder), batch_size=BATCH, device="cpu")


def spec_of(task: str, data: Path, shots: int | None) -> SuiteSpec:
    return SuiteSpec(
        study="s",
        run_id=f"suite/m/base/{task}",
        model="m",
        model_path="m",
        seed=None,
        task=task,
        data_path=str(data),
        num_fewshot=shots,
        limit=LIMIT,
        max_gen_toks=TOKENS,
        batch_size=BATCH,
        device="cpu",
        dtype="float32",
        attention="sdpa",
        num_threads=1,
    )


SCORED = [
    *[(f"mmlu_{subject}", SHOTS) for subject in SUBJECTS],
    *[(f"bbh_cot_fewshot_{subject}", 1) for subject in BBH],
    ("gsm8k", SHOTS),
    ("truthfulqa_mc1", None),
    ("truthfulqa_mc2", None),
]


@pytest.mark.parametrize(("name", "shots"), SCORED)
def test_examples_score_as_by_the_command_line(
    name: str, shots: int | None, told: dict[str, Any], lm: SuiteLM, data: Path
) -> None:
    spec = spec_of(name, data, shots)
    score, samples = score_tasks(lm, load_tasks(spec), spec, "0")
    kind = score.metric.partition(", ")[2] or "none"
    metric = score.metric.partition(", ")[0]
    own = {document: line for (document, under), line in told[name].items() if under == kind}
    assert len(samples) == len(own) > 0
    for sample in samples:
        line = own[sample["doc_id"]]
        assert sample["prompt_sha256"] == line["prompt_hash"]
        # MC2's is a share of probabilities; there other requests lie in a batch beside these.
        assert sample["outcome"] == pytest.approx(line[metric], rel=1e-5, abs=1e-12)
        if "generated" in sample:
            assert sample["generated"] == line["resps"][0][0]
            assert sample["answer"] == line["filtered_resps"][0]
        else:
            theirs = [float(response[0]) for response in line["filtered_resps"]]
            assert sample["log_likelihoods"] == pytest.approx(theirs, abs=1e-4)
    assert score.value == pytest.approx(
        sum(line[metric] for line in own.values()) / len(own), rel=1e-5, abs=1e-12
    )


@pytest.mark.parametrize("task", TASKS)
def test_our_six_tasks_score_as_with_lm_evals_own_tokens(
    task: str, model_folder: Path, data_folder: Path
) -> None:
    """The model that lm-eval's command line was told to equal above, in place of ours.

    Where tokens end in a space, as those of tinystories-656k, lm-eval takes a part of the answer
    for the question; ours does not, and this model's tokens begin with theirs.
    """
    folder = str(model_folder)
    spec = TaskSpec.model_validate(
        {
            **{"study": "s", "run_id": "r", "model": "m", "model_path": folder, "seed": 0},
            **{"method": "zero_shot", "hyper": {}, "device": "cpu", "dtype": "float32"},
            **{"attention": "sdpa", "activation_checkpointing": False, "batch_size": 1},
            **{"max_grad_norm": None, "timeout_s": None, "num_threads": 1, "trial": 0},
            **{"data_path": str(data_folder), "task": task, "epochs": 1, "num_test": 8},
            **{"num_train": 8, "num_dev": 4, "sample_seed": 0, "max_length": 256},
            **{"schedule": "constant", "eval_batch_size": BATCH, "protocol": "sound"},
        }
    )
    model = load_model(folder, dtype="float32", attention="sdpa", device="cpu").eval()
    tokenizer = load_tokenizer(folder)
    wrapped = evaluate.wrap(model, text_encoder(tokenizer, folder), spec, "cpu")
    asked = evaluate.load_task(spec, "test")
    _, samples = evaluate.score(wrapped, asked, split="test", step=0, epoch=0)
    own = SuiteLM(model, tokenizer, batch_size=BATCH, device="cpu")
    name = asked.config.task
    found = lm_eval.evaluate(own, {"tasks": {name: evaluate.load_task(spec, "test")}})
    assert found is not None
    lines = {line["doc_id"]: line for line in found["samples"][name]}
    assert len(lines) == len(samples) == 8
    for sample in samples:
        theirs = [float(response[0]) for response in lines[sample["doc_id"]]["filtered_resps"]]
        assert sample["log_likelihoods"] == pytest.approx(theirs, abs=1e-4)
        assert sample["acc"] == lines[sample["doc_id"]]["acc"]


def test_completions_are_those_of_greedy_decoding(lm: SuiteLM, data: Path, test_data: Path) -> None:
    from lm_eval.api.instance import Instance

    folder = test_data / "weights/tinystories-656k"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    problems = first_problems(data, 3)
    options = {"until": list(STOPS), "max_gen_toks": 24, "do_sample": False}
    asked = [
        Instance("generate_until", {}, (problem.prompt, options), 0, ("humaneval", number, 1))
        for number, problem in enumerate(problems)
    ]
    for problem, text in zip(problems, lm.generate_until(asked), strict=True):
        tokens = tokenizer(problem.prompt, return_tensors="pt")
        out = model.generate(
            tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            do_sample=False,
            max_new_tokens=24,
            pad_token_id=tokenizer.eos_token_id,
        )
        new = out[0][tokens["input_ids"].shape[1] :]
        whole = tokenizer.decode(new, skip_special_tokens=True)
        ends = [whole.find(stop) for stop in (*STOPS, tokenizer.eos_token) if stop in whole]
        assert text == whole[: min(ends, default=None)] != ""
        assert (text in lm.unfinished) == (not ends and tokenizer.eos_token_id not in new)
