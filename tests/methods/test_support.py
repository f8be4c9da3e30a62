"""Each cell of the refusal matrix: equal to its reference, different as documented, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lomo import engines, methods
from lomo.engines import Cell
from lomo.errors import UserError
from lomo.methods import support
from lomo.study.config import Study
from lomo.study.plan import make_plan
from tests.distributed.cases import CASES, RATES, Case, batch_of, train
from tests.numerics.models import llama, max_difference
from tests.numerics.reference import AdaLomoReference

MATRIX = [
    (method, option, engine, found)
    for method, option, by_engine in support.cells()
    for engine, found in by_engine.items()
]
ALONE = [(method, option, found) for method, option, engine, found in MATRIX if engine == "single"]
NUM_STEPS = 5
LIMIT, DECAY = 0.5, 0.1

# What a study, and a case of the tests, says to ask for an option.
SETTINGS: dict[str, dict[str, Any]] = {
    "max_grad_norm": {"max_grad_norm": LIMIT},
    "weight_decay": {"weight_decay": DECAY},
    "gradient_accumulation": {"gradient_accumulation": 2},
    "float16": {"dtype": "float16"},
}
HYPER: dict[str, dict[str, list[str]]] = {
    "norm_scope": {"norm_scope": ["parameter"]},
    "rounding": {"rounding": ["stochastic"]},
    "update": {"update": ["gemm"]},
}
TESTED_BY: dict[str, Callable[[Case], bool]] = {
    "max_grad_norm": lambda case: case.options.get("max_grad_norm") is not None,
    "weight_decay": lambda case: "weight_decay" in case.options,
    "gradient_accumulation": lambda case: "gradient_accumulation" in case.options,
    "float16": lambda case: "loss_scale" in case.direct or case.dtype == "float16",
    "norm_scope": lambda case: "norm_scope" in case.direct,
    "rounding": lambda case: "rounding" in case.hyper,
}


def ids(cells: list[Any]) -> list[str]:
    return ["-".join(part for part in cell if isinstance(part, str)) for cell in cells]


def study_of(study_dict: dict[str, Any], method: str, option: str, engine: str) -> Study:
    given = deepcopy(study_dict)
    section = given["superglue"]
    section["methods"] = [method]
    section["settings"] |= {
        "max_grad_norm": LIMIT if option == "norm_scope" else None,
        "engine": engine,
        "num_devices": 1 if engine == "single" else 2,
        **SETTINGS.get(option, {}),
    }
    if option in HYPER:
        section["grids"] = {method: HYPER[option]}
    del given["memory"]
    return Study.model_validate(given)


@pytest.mark.parametrize(("method", "option", "engine", "found"), MATRIX, ids=ids(MATRIX))
def test_the_plan_refuses_what_the_matrix_refuses(
    study_dict: dict[str, Any], method: str, option: str, engine: str, found: Cell
) -> None:
    study = study_of(study_dict, method, option, engine)
    if found.verdict != "refused":
        assert make_plan(study, source="unit.yaml").runs
        return
    with pytest.raises(UserError) as error:
        make_plan(study, source="unit.yaml")
    assert found.note in str(error.value)


@pytest.mark.parametrize(("method", "option", "engine", "found"), MATRIX, ids=ids(MATRIX))
def test_two_ranks_are_tested_wherever_they_are_not_refused(
    method: str, option: str, engine: str, found: Cell
) -> None:
    if engine != "single" and found.verdict != "refused":
        cases = [c for c in CASES.values() if c.method == method and engine in c.engines]
        assert any(map(TESTED_BY[option], cases))


@pytest.mark.parametrize(("method", "option", "found"), ALONE, ids=ids(ALONE))
def test_one_process_does_what_the_matrix_says(method: str, option: str, found: Cell) -> None:
    if found.verdict == "refused":
        return  # by the plan, see above
    if option in ("float16", "rounding", "norm_scope"):
        # tests/numerics tells how exactly; here: it is honoured, not dropped.
        assert max_difference(trained(method, option), trained(method, "")) > 0
        return
    assert max_difference(trained(method, option), reference(method, option)) <= 1e-6


def trained(method: str, option: str) -> dict[str, Tensor]:
    """Weights after some steps of the method itself, as a run takes them."""
    options = {key: value for key, value in SETTINGS.get(option, {}).items() if key != "dtype"}
    if option == "norm_scope":
        options["max_grad_norm"] = LIMIT
    settings = {}
    if option in ("float16", "rounding"):
        settings = {"dtype": torch.float16 if option == "float16" else torch.bfloat16}
    hyper = {key: values[0] for key, values in HYPER.get(option, {}).items()}
    prepared, losses, _ = train(Case(method, options, hyper=hyper, settings=settings))
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    return {n: p.detach().float() for n, p in prepared.model.named_parameters()}


def reference(method: str, option: str) -> dict[str, Tensor]:
    """The same by torch alone: an ordinary loop, optimizer by optimizer."""
    torch.manual_seed(0)
    model: Any = llama()
    if method in ("lora", "lora_lomo"):
        model = methods.module_of("lora").with_adapters(
            model, methods.module_of("lora").Hyper(rank=2, alpha=16, dropout=0.0)
        )
    adapters = [p for n, p in model.named_parameters() if "lora_" in n]
    base = [p for n, p in model.named_parameters() if "lora_" not in n]
    if method == "lora_lomo":
        for parameter in base:
            parameter.requires_grad_(True)
    decay = DECAY if option == "weight_decay" else 0.0
    groups = {"lora": [adapters], "lora_lomo": [base, adapters]}.get(method, [base])
    steps = [step_of(method, group, group is adapters, decay) for group in groups]
    model.train()
    for number in range(NUM_STEPS):
        backward(model, number, 2 if option == "gradient_accumulation" else 1)
        for group, step in zip(groups, steps, strict=True):
            if option == "max_grad_norm":
                nn.utils.clip_grad_norm_(group, LIMIT, foreach=False)
            step()
        model.zero_grad()
    return {n: p.detach() for n, p in model.named_parameters()}


def step_of(method: str, group: list[nn.Parameter], adapters: bool, decay: float) -> Any:
    if method == "adalomo":
        references = [AdaLomoReference(p, lr=RATES[method], weight_decay=decay) for p in group]

        def step() -> None:
            for parameter, theirs in zip(group, references, strict=True):
                theirs.step(parameter.grad)
                parameter.data.copy_(theirs.weight())

        return step
    if adapters or method == "adamw":
        return torch.optim.AdamW(group, lr=RATES[method], weight_decay=decay, foreach=False).step
    lr = 0.1  # of SGD, LOMO and the base weights of LoRA+LOMO
    return torch.optim.SGD(group, lr=lr, weight_decay=decay, foreach=False).step


def backward(model: nn.Module, step: int, num_micro_batches: int) -> None:
    batch = batch_of(step)
    rows = torch.arange(len(batch.input_ids_BS))
    for share in chunked(rows, num_micro_batches):
        model(
            input_ids=batch.input_ids_BS[share],
            attention_mask=batch.attention_mask_BS[share],
            labels=batch.labels_BS[share],
            num_items_in_batch=batch.num_targets,
        ).loss.backward()


def chunked(rows: Tensor, num_parts: int) -> Iterator[Tensor]:
    yield from (part for part in torch.tensor_split(rows, num_parts) if len(part))


def test_every_engine_and_option_stands_in_the_matrix() -> None:
    assert {engine for _, _, engine, _ in MATRIX} == set(engines.MODULES)
    assert {option for _, option, _, _ in MATRIX} == set(support.OPTIONS)
    trained_methods = {m for m in methods.MODULES if methods.describe(m).trains}
    assert {method for method, _, _, _ in MATRIX} == trained_methods
