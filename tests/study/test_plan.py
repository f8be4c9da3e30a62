"""The plan: every run once, named by what makes it different, resolved to the last number."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.forecast.command import Planning
from lomo.specs import MeasureSpec, TaskSpec, TrainSpec
from lomo.study.config import Study, load_study
from lomo.study.inputs import model_files
from lomo.study.plan import Plan, make_plan, read_spec
from lomo.system.strict import read_yaml

ROOT = Path(__file__).parents[2]
TASKS = ("rte", "boolq", "wsc", "wic", "multirc", "copa")
PAPER_MODELS = ("llama-7b", "llama-13b", "llama-30b", "llama-65b")


def planned(study: dict[str, Any]) -> Plan:
    return make_plan(Study.model_validate(study), source="unit.yaml")


def accuracy(study: dict[str, Any], **changes: Any) -> Plan:
    """The plan of the study with one changed accuracy section and nothing else; one seed."""
    rest = {key: value for key, value in study.items() if key != "memory"}
    return planned({**rest, "protocol": "paper", "superglue": {**study["superglue"], **changes}})


@pytest.fixture(scope="module")
def paper() -> Plan:
    return make_plan(load_study(ROOT / "config" / "paper.yaml"), source="config/paper.yaml")


def trials_of(plan: Plan, method: str, *, section: str = "superglue") -> list[TrainSpec]:
    specs = (plan.runs[run_id] for run_id in plan.sections[section])
    return [spec for spec in specs if isinstance(spec, TrainSpec) and spec.method == method]


def test_a_run_id_says_what_makes_the_run_different(study_dict: dict[str, Any]) -> None:
    plan = planned(study_dict)
    assert "train/test/lomo/rte/s42/t0" in plan.runs
    assert "train/test/lora-r2/rte/s42/t0" in plan.runs
    assert "measure/test/lomo/32x2-bfloat16-checkpointed" in plan.runs
    assert "measure/test/lomo/32x2-bfloat16-plain" in plan.runs
    assert all(run_id == spec.run_id for run_id, spec in plan.runs.items())


def test_trials_are_the_product_of_the_grid_numbered_alike(study_dict: dict[str, Any]) -> None:
    grid = {"learning_rate": [0.1, 0.2, 0.3], "warmup_ratio": [0.0, 0.5]}
    plan = accuracy(study_dict, methods=["lomo"], tasks=["rte", "copa"], grids={"lomo": grid})
    for task in ("rte", "copa"):
        found = {s.trial: s.hyper for s in trials_of(plan, "lomo") if s.task == task}
        defaults = {"rounding": "nearest", "norm_scope": "global", "update": "hook"}
        assert found == {
            number: {"learning_rate": rate, "warmup_ratio": ratio, **defaults}
            for number, (rate, ratio) in enumerate(itertools.product(*grid.values()))
        }


def test_what_a_grid_leaves_out_is_the_methods_default(study_dict: dict[str, Any]) -> None:
    plan = accuracy(study_dict, methods=["lora"], grids={"lora": {"rank": [8]}})
    (spec,) = trials_of(plan, "lora")
    assert spec.hyper == {
        "learning_rate": 5e-4,
        "warmup_ratio": 0.05,
        "rank": 8,
        "alpha": 16.0,
        "dropout": 0.05,
    }


def test_each_rank_counts_its_own_trials(study_dict: dict[str, Any]) -> None:
    plan = accuracy(
        study_dict,
        methods=["lora", "lomo"],
        ranks=[1, 4],
        grids={"lora": {"learning_rate": [0.1, 0.2]}},
    )
    assert list(plan.runs) == [
        *(f"train/test/lora-r{rank}/rte/s42/t{trial}" for rank in (1, 4) for trial in (0, 1)),
        "train/test/lomo/rte/s42/t0",
    ]


def test_ranks_of_a_grid_are_told_apart_too(study_dict: dict[str, Any]) -> None:
    plan = accuracy(study_dict, methods=["lora"], grids={"lora": {"rank": [2, 4]}})
    assert list(plan.runs) == [f"train/test/lora-r{rank}/rte/s42/t0" for rank in (2, 4)]


def test_zero_shot_has_one_seed_and_one_trial(study_dict: dict[str, Any]) -> None:
    plan = accuracy(study_dict, methods=["zero_shot", "lomo"], seeds=[1, 2, 3])
    assert [spec.seed for spec in trials_of(plan, "zero_shot")] == [1]
    assert [spec.seed for spec in trials_of(plan, "lomo")] == [1, 2, 3]


def test_a_run_that_two_sections_ask_for_is_done_once(study_dict: dict[str, Any]) -> None:
    lora = {**study_dict["superglue"], "methods": ["lora"]}
    plan = planned({**study_dict, "protocol": "paper", "lora_rank": lora})
    (shared,) = plan.sections["lora_rank"]
    assert shared in plan.sections["superglue"]
    assert list(plan.runs).count(shared) == 1


def test_what_is_named_twice_in_a_section_is_done_once(study_dict: dict[str, Any]) -> None:
    plan = accuracy(study_dict, methods=["lomo", "lomo"], tasks=["rte", "rte"])
    assert plan.sections["superglue"] == list(plan.runs) == ["train/test/lomo/rte/s42/t0"]


def test_a_run_is_told_everything_it_needs(study_dict: dict[str, Any]) -> None:
    plan = planned(study_dict)
    settings = study_dict["superglue"]["settings"]
    for spec in plan.runs.values():
        told = spec.model_dump()
        assert told["model_path"] == study_dict["memory"]["models"][0]
        assert told["device"] == "cpu" and "wandb" not in told
        if isinstance(spec, TrainSpec):
            assert told.items() >= settings.items()
            assert spec.data_path == study_dict["data"]


def test_a_plan_survives_json(study_dict: dict[str, Any]) -> None:
    plan = planned(study_dict)
    back = Plan.model_validate_json(plan.model_dump_json())
    assert back == plan
    kinds = {type(spec) for spec in back.runs.values()}
    assert kinds == {TaskSpec, MeasureSpec}


def test_a_spec_survives_the_command_line(study_dict: dict[str, Any]) -> None:
    for spec in planned(study_dict).runs.values():
        assert read_spec(json.loads(spec.model_dump_json()), where="--spec") == spec


def test_the_same_study_makes_the_same_plan(study_dict: dict[str, Any]) -> None:
    first, second = (planned(study_dict).model_dump_json() for _ in range(2))
    assert first == second


def test_a_snakemake_config_with_defaults_left_out_makes_the_same_plan(
    study_dict: dict[str, Any],
) -> None:
    plan = planned(study_dict)
    again = planned(json.loads(plan.study.model_dump_json(exclude_defaults=True)))
    assert again == plan


def test_ranks_beside_a_grid_of_ranks_are_refused(study_dict: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is given beside `ranks`"):
        accuracy(study_dict, methods=["lora"], ranks=[2], grids={"lora": {"rank": [4]}})


def test_the_paper_plans_four_sizes_six_tasks_and_table_4s_trials(paper: Plan) -> None:
    trials = {"zero_shot": 1, "lora": 1, "lomo": 6, "sgd": 6, "adamw": 6, "adalomo": 6}
    found = Counter(
        (spec.model, spec.method, spec.task)
        for method in trials
        for spec in trials_of(paper, method)
    )
    assert found == {
        (model, method, task): count
        for model in PAPER_MODELS
        for method, count in trials.items()
        for task in TASKS
    }


def test_the_papers_grid_of_lomo_and_setting_of_lora_are_table_4s(paper: Plan) -> None:
    lomo = {(s.hyper["learning_rate"], s.hyper["warmup_ratio"]) for s in trials_of(paper, "lomo")}
    assert lomo == set(itertools.product((5e-2, 3e-2), (0.05, 0.1, 0.2)))
    for spec in trials_of(paper, "lora"):
        assert spec.hyper["learning_rate"] == 5e-4 and spec.hyper["warmup_ratio"] == 0.05
        assert spec.hyper["rank"] == 2
    for spec in trials_of(paper, "lomo") + trials_of(paper, "lora"):
        assert (spec.epochs, spec.batch_size, spec.max_grad_norm) == (10, 16, 1.0)
        assert (spec.num_train, spec.num_test, spec.protocol) == (1000, 1000, "paper")


def test_the_papers_lora_with_lomo_has_six_trials_a_rank(paper: Plan) -> None:
    specs = trials_of(paper, "lora_lomo", section="lora_rank")
    found = Counter((spec.model, spec.task, spec.hyper["rank"]) for spec in specs)
    ranks = (1, 2, 4, 8)
    assert found == {("llama-13b", task, r): 6 for task in ("boolq", "multirc") for r in ranks}
    rates = {(s.hyper["lomo_learning_rate"], s.hyper["lomo_warmup_ratio"]) for s in specs}
    assert rates == set(itertools.product((5e-3, 1e-3, 5e-4), (0.05, 0.1)))


def test_the_papers_measured_cells_are_those_of_tables_1_and_2(paper: Plan) -> None:
    memory = [paper.runs[run_id] for run_id in paper.sections["memory"]]
    cells = {(s.model, s.method, s.activation_checkpointing) for s in memory}
    assert {("llama-7b", m, c) for m in ("adamw", "sgd", "lomo") for c in (0, 1)} <= cells
    throughput = [paper.runs[run_id] for run_id in paper.sections["throughput"]]
    assert {(s.model, s.method) for s in throughput} == set(
        itertools.product(PAPER_MODELS, ("adamw", "sgd", "lomo"))
    )


@pytest.mark.parametrize(
    ("study", "sections"),
    [
        ("h200", {"memory": 4 * 6 * 2, "throughput": 4 * 6 * 3}),
        ("h200-speed", {"ablation": 2 * 16}),
        ("rtx3090", {"memory": 6 * 2, "throughput": 4 * 4 * 4}),
        ("consumer-gpu", {"memory": 5 * 6, "throughput": 5 * 6 * 2}),
    ],
)
def test_the_studies_of_gpus_ask_for_random_weights_alone(
    study: str, sections: dict[str, int]
) -> None:
    source = f"config/{study}.yaml"
    plan = make_plan(load_study(ROOT / source), source=source)
    assert {name: len(runs) for name, runs in plan.sections.items()} == sections
    assert {entry.weights for entry in plan.models.values()} == {"random"}
    for spec in plan.runs.values():
        assert spec.timeout_s is not None and spec.timeout_s < 600
        assert spec.model_path == f"results/{study}/models/{spec.model}"


@pytest.mark.parametrize(
    ("protocol", "seeds", "num_dev"), [("paper", [42], 0), ("sound", [42, 43, 44], 8)]
)
def test_a_protocol_has_its_seeds_and_its_selection(
    protocol: str, seeds: list[int], num_dev: int, study_dict: dict[str, Any]
) -> None:
    specs = trials_of(planned({**study_dict, "protocol": protocol}), "lomo")
    assert [spec.seed for spec in specs] == seeds
    assert {(spec.protocol, spec.num_dev) for spec in specs} == {(protocol, num_dev)}


def test_budgets_may_differ_where_that_is_said(study_dict: dict[str, Any]) -> None:
    grids = {"lomo": {"learning_rate": [0.1, 0.2]}}
    section = {**study_dict["superglue"], "methods": ["zero_shot", "sgd", "lomo"], "grids": grids}
    study = {**study_dict, "superglue": section}
    with pytest.raises(UserError, match=r"\(sgd 1, lomo 2\)"):
        planned(study)
    for told in ({"budget": "unequal"}, {"protocol": "paper"}):
        assert {spec.trial for spec in trials_of(planned({**study, **told}), "lomo")} == {0, 1}


def test_a_rank_is_no_trial(study_dict: dict[str, Any]) -> None:
    """Ranks stand side by side; each has as many trials as a method without one."""
    section = {**study_dict["superglue"], "methods": ["lora", "lomo"], "ranks": [1, 2]}
    grids = {method: {"learning_rate": [0.1, 0.2]} for method in ("lora", "lomo")}
    plan = planned({**study_dict, "superglue": {**section, "grids": grids}})
    found = Counter(
        (run.method, run.hyper.get("rank"))
        for run in plan.runs.values()
        if isinstance(run, TrainSpec)
    )
    assert found == {("lora", 1): 6, ("lora", 2): 6, ("lomo", None): 6}


def test_the_papers_matrix_has_a_plan_under_either_protocol() -> None:
    path = ROOT / "config" / "paper.yaml"
    as_it_is = make_plan(load_study(path), source="paper")
    with pytest.raises(UserError, match=r"budget=unequal"):
        make_plan(load_study(path, ["protocol=sound"]), source="paper")
    sound = make_plan(load_study(path, ["protocol=sound", "budget=unequal"]), source="paper")
    trained = {run_id for run_id, run in as_it_is.runs.items() if isinstance(run, TrainSpec)}
    assert set(as_it_is.runs) < set(sound.runs)
    again = [run_id for run_id in trained if "zero_shot" not in run_id]
    assert len(sound.runs) == len(as_it_is.runs) + 2 * len(again)


def test_each_seed_has_a_base_model_and_what_is_measured_has_none() -> None:
    study = {**read_yaml(ROOT / "config" / "tiny.yaml"), "study": "own"}
    study["superglue"] = {**study["superglue"], "seeds": [7, 8, 9]}
    study["lora_rank"] = {**study["lora_rank"], "seeds": [9, 8, 7]}
    study["suites"] = {**study["suites"], "seeds": [8]}
    plan = planned(study)
    assert plan.bases() == {
        f"results/own/models/tiny-s/s{seed}": ("tiny-s", seed) for seed in (7, 8, 9)
    }
    for spec in plan.runs.values():
        folder = f"results/own/models/{spec.model}"
        own = isinstance(spec, TrainSpec)
        assert spec.model_path == (f"{folder}/s{spec.seed}" if own else folder)
        entry, seed = plan.models[spec.model], getattr(spec, "seed", None)
        last = "model.safetensors" if own else "config.json"
        assert model_files(entry, "own", seed) == [f"{spec.model_path}/{last}"]


def test_zero_shot_has_a_run_for_each_base_model(study_dict: dict[str, Any]) -> None:
    def seeds(study: dict[str, Any]) -> list[int]:
        accuracy = {**study["superglue"], "methods": ["zero_shot"], "seeds": [7, 8, 9], "grids": {}}
        plan = planned({**study, "superglue": {**accuracy, "tasks": ["rte"]}})
        return [run.seed for run in plan.runs.values() if isinstance(run, TrainSpec)]

    assert seeds(study_dict) == [7]  # a local model is the same for each seed
    assert seeds(read_yaml(ROOT / "config" / "tiny.yaml") | {"lora_rank": None}) == [7, 8, 9]


def test_random_weights_keep_what_a_model_stands_for() -> None:
    plan = make_plan(load_study(ROOT / "config" / "h200.yaml"), source="config/h200.yaml")
    assert plan.models["llama-65b"].paper == "65B"
    assert plan.models["llama-65b"].hub is None


def test_lists_of_batches_and_devices_are_run_through(study_dict: dict[str, Any]) -> None:
    memory = {
        **study_dict["memory"],
        "methods": ["lomo"],
        "batch_size": [1, 4],
        "engine": "fsdp2",
        "num_devices": [2, 8],
    }
    runs = planned({**study_dict, "throughput": memory}).sections["throughput"]
    assert [run.split("/")[-1] for run in runs] == [
        f"32x{batch}-bfloat16-{checkpointing}-fsdp2-{devices}"
        for batch in (1, 4)
        for devices in (2, 8)
        for checkpointing in ("plain", "checkpointed")
    ]


def test_random_weights_cannot_be_trained_on(study_dict: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="random"):
        planned({**study_dict, "weights": "random"})


# As told by the models' own pages, from config.json values alone.
@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-8b", 8_190_735_360),
        ("llama-3.2-3b", 3_212_749_824),
        ("llama-3.1-8b", 8_030_261_248),
        ("mistral-7b-v0.3", 7_248_023_552),
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-30b", 32_528_943_616),
        ("llama-65b", 65_285_660_672),
    ],
)
def test_architectures_have_the_parameters_of_their_models(name: str, num_parameters: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lomo.model.registry import registry

    architecture = registry(ROOT / "config" / "models.yaml")[name].architecture
    assert architecture is not None
    config = AutoConfig.for_model(**architecture)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


@pytest.mark.parametrize("change", [{"batch_size": [1, 4]}, {"num_devices": [1, 2]}])
def test_table_1_has_one_setting(study_dict: dict[str, Any], change: dict[str, Any]) -> None:
    memory = {**study_dict["memory"], **change}
    with pytest.raises(ValueError, match="put the others into `throughput`"):
        planned({**study_dict, "memory": memory})


SAID = "model/config.json: is_decoder is false: every token sees its answer\n  allowed: causal ones"


@pytest.mark.parametrize(("code", "needs_the_hub"), [(2, False), (2, True), (1, False), (0, False)])
def test_a_study_is_not_started_with_a_model_that_no_run_can_use(
    code: int, needs_the_hub: bool, tmp_path: Path
) -> None:
    log, estimates = tmp_path / "estimate.log", tmp_path / "estimates.json"
    log.write_text(f"a line before\nerror: {SAID}\n")
    estimates.write_text("{}")
    process = subprocess.Popen(["sh", "-c", f"exit {code}"])
    planning = Planning(process, log, estimates, needs_the_hub)
    if (code, needs_the_hub) == (2, False):
        with pytest.raises(UserError) as refused:
            planning.finish()
        assert str(refused.value) == SAID
    else:
        planning.finish()
    assert estimates.exists() is (code == 0)
