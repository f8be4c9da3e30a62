"""The study of peers: its plan, random weights, and that each peer takes the step that it names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import weakref
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lomo import methods
from lomo.engines.single import ALONE, training_step
from lomo.errors import UserError
from lomo.memory.measured.meter import StorageMeter
from lomo.methods import peers
from lomo.methods.lomo import Hyper as LomoHyper
from lomo.model.registry import ModelEntry, random_config, registry
from lomo.model.weights import load_model, weights_sha256
from lomo.record.schema import read_record
from lomo.run.findings import Findings
from lomo.run.prepare import prepare_model
from lomo.specs import PeerSpec
from lomo.study.config import Study, load_study
from lomo.study.plan import Plan, check_model, make_plan, read_plan, read_spec
from lomo.tasks.batches import random_batch

ROOT = Path(__file__).parents[2]
ARCHITECTURE = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
RATE = 0.05


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a model of random weights, as the pipeline makes it."""
    entry = ModelEntry(name="small", weights="random", architecture=ARCHITECTURE)
    (tmp_path / "small").mkdir()
    (tmp_path / "small/config.json").write_text(json.dumps(random_config(entry)))
    return tmp_path / "small"


def study(**changes: Any) -> dict[str, Any]:
    section = {
        "models": ["llama-33m"],
        "variants": {
            "floor": {"method": "floor"},
            "sgd": {"method": "torch_sgd"},
            "clipped": {"method": "lomo", "max_grad_norm": 1.0},
        },
        "rounds": 2,
        "batch_size": 2,
        "sequence_length": 16,
    }
    return {"study": "unit", "title": "t", "data": "generated", "peers": {**section, **changes}}


def planned(given: dict[str, Any]) -> Plan:
    return make_plan(Study.model_validate(given), source="unit.yaml")


def test_rounds_are_interleaved_and_each_run_is_named_by_variant_and_round() -> None:
    plan = planned(study())
    setting = "16x2-bfloat16-plain"
    assert list(plan.runs) == [
        f"measure/llama-33m/{variant}/{setting}/round{number}"
        for number in (1, 2)
        for variant in ("floor", "sgd", "clipped")
    ]
    spec = plan.runs[f"measure/llama-33m/clipped/{setting}/round2"]
    assert isinstance(spec, PeerSpec)
    assert (spec.variant, spec.round, spec.method, spec.max_grad_norm) == (
        *("clipped", 2, "lomo"),
        1.0,
    )


def test_a_plan_of_peers_survives_json_and_the_command_line() -> None:
    plan = planned(study())
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    for spec in plan.runs.values():
        assert read_spec(json.loads(spec.model_dump_json()), where="--spec") == spec


def test_the_study_of_the_repository_holds_every_peer_and_every_way_of_lomo() -> None:
    plan = make_plan(load_study(ROOT / "config/peers.yaml"), source="config/peers.yaml")
    used = {spec.method for spec in plan.runs.values()}
    assert used == {*peers.MODULES, "lomo", "adalomo"}
    for name, field in LomoHyper.model_fields.items():
        asked = {spec.hyper[name] for spec in plan.runs.values() if spec.method == "lomo"}
        options = getattr(field.annotation, "__args__", ())
        assert asked == set(options) or not options, name


def test_every_peer_that_is_registered_describes_itself() -> None:
    assert not set(peers.MODULES) & set(methods.modules())
    for peer in peers.MODULES:
        assert methods.describe(peer).title


@pytest.mark.parametrize("found", [None, "0.2.0"])
def test_a_plan_without_lomo_optim_says_how_to_get_it(
    found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(package: str) -> str:
        if found is None:
            raise PackageNotFoundError(package)
        return found

    monkeypatch.setattr(peers, "version", version)
    variants = {"floor": {"method": "floor"}, "theirs": {"method": "lomo_optim"}}
    with pytest.raises(UserError, match=r"pip install lomo-optim==0\.1\.1") as caught:
        planned(study(variants=variants))
    assert caught.value.where == "unit.yaml: peers.variants.theirs.method"
    planned(study())  # who does not ask for it needs none


def test_random_weights_are_seeded_and_of_the_dtype_asked_for(folder: Path) -> None:
    first, again = (
        load_model(str(folder), dtype="bfloat16", attention="sdpa", device="cpu") for _ in range(2)
    )
    for (name, one), two in zip(first.named_parameters(), again.parameters(), strict=True):
        assert one.dtype == torch.bfloat16 and torch.equal(one, two), name
    assert first.model.embed_tokens.weight.std() > 0
    assert weights_sha256(str(folder)) is None


def test_random_weights_never_exist_in_another_precision(folder: Path) -> None:
    """All that is alive while they are made is the model, and of scratch less than one matrix."""
    with StorageMeter(torch.device("cpu")) as meter:
        model = load_model(str(folder), dtype="bfloat16", attention="sdpa", device="cpu")
    matrix = model.lm_head.weight.nbytes
    assert meter.peak.total_bytes < sum(p.nbytes for p in model.parameters()) + matrix


def test_random_weights_are_not_for_training(folder: Path, study_dict: dict[str, Any]) -> None:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    for spec in plan.runs.values():
        spec = spec.model_copy(update={"model_path": str(folder)})
        if spec.kind == "measure":
            check_model(spec, where="--spec")
        else:
            with pytest.raises(UserError, match="nothing to train or to score"):
                check_model(spec, where="--spec")


def test_llama_33m_has_the_tensors_that_the_study_says() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(registry(ROOT / "config/models.yaml")["llama-33m"].architecture or {})
    config = AutoConfig.for_model(str(settings.pop("model_type")), **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert (len(sizes), sum(sizes)) == (75, 33_694_208)


# Peer or method, hyper-parameters, clipping, and the optimizer whose fp32 step it takes.
STEPS: list[tuple[str, dict[str, Any], float | None, type[torch.optim.Optimizer] | None]] = [
    ("floor", {}, None, None),
    ("gradients_kept", {}, None, None),
    ("torch_sgd", {"implementation": "loop"}, None, torch.optim.SGD),
    ("torch_sgd", {"implementation": "foreach"}, 0.5, torch.optim.SGD),
    ("torch_adamw", {"implementation": "loop"}, None, torch.optim.AdamW),
    ("torch_adamw", {"implementation": "foreach"}, None, torch.optim.AdamW),
    ("torch_adamw", {"implementation": "fused"}, 0.5, torch.optim.AdamW),
    ("optimizer_in_backward", {}, None, torch.optim.SGD),
    ("lomo_optim", {}, None, torch.optim.SGD),
    ("lomo_optim", {}, 0.5, torch.optim.SGD),
    ("lomo", {}, None, torch.optim.SGD),
    ("lomo", {}, 0.5, torch.optim.SGD),
    ("lomo", {"norm_scope": "previous_step"}, 0.5, torch.optim.SGD),  # its first step is exact
    ("lomo", {"update": "gemm"}, None, torch.optim.SGD),
    ("lomo", {"update": "gemm"}, 0.5, torch.optim.SGD),
    ("lomo", {"rounding": "stochastic"}, None, torch.optim.SGD),  # of 16-bit weights only
]


def prepared(
    folder: Path, method: str, hyper: dict[str, Any], max_grad_norm: float | None, dtype: str
) -> methods.Prepared:
    full = {**hyper, "learning_rate": RATE} if "learning_rate" in _fields(method) else hyper
    variant = {"method": method, "hyper": full, "max_grad_norm": max_grad_norm}
    floor = {"other" if method == "floor" else "floor": {"method": "floor"}}
    variants = {**(floor if method != "floor" else {}), "it": variant}
    if method == "floor":
        variants["sgd"] = {"method": "torch_sgd"}
    plan = planned(study(variants=variants, dtype=dtype))
    spec = next(s for s in plan.runs.values() if isinstance(s, PeerSpec) and s.variant == "it")
    model = load_model(str(folder), dtype=dtype, attention="sdpa", device="cpu")
    model.train()
    return methods.prepare(method)(model, spec, lambda adapted: adapted)


def _fields(method: str) -> set[str]:
    return set(methods.describe(method).hyper.model_fields)


def take_step(made: methods.Prepared, max_grad_norm: float | None) -> None:
    batch = random_batch(vocabulary=320, batch_size=2, sequence_length=16, seed=0, device="cpu")
    optimizers = [optimizer for optimizer, _ in made.optimizers]
    training_step(made.model, optimizers, [batch], max_grad_norm=max_grad_norm)


@pytest.mark.parametrize(("method", "hyper", "limit", "reference"), STEPS)
def test_a_peer_takes_the_step_that_it_names(
    folder: Path,
    method: str,
    hyper: dict[str, Any],
    limit: float | None,
    reference: type[torch.optim.Optimizer] | None,
) -> None:
    made = prepared(folder, method, hyper, limit, "float32")
    take_step(made, limit)
    expected = load_model(str(folder), dtype="float32", attention="sdpa", device="cpu")
    if reference is not None:
        before = expected.lm_head.weight.detach().clone()
        optimizer: Any = reference
        ordinary = optimizer(expected.parameters(), lr=RATE, **_decay(reference))
        take_step(methods.Prepared(expected, [(ordinary, 0.0)]), limit)
        assert not torch.equal(before, expected.lm_head.weight)
    for (name, one), two in zip(made.model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=2e-6, msg=name)
        assert one.grad is None


def _decay(reference: type[torch.optim.Optimizer]) -> dict[str, float]:
    return {"weight_decay": 0.0} if reference is torch.optim.AdamW else {}


@pytest.mark.parametrize(
    ("method", "hyper"),
    [(m, h) for m, h, _, reference in STEPS if reference is not None]
    + [("adalomo", {}), ("lomo", {"norm_scope": "parameter"})],
)
def test_a_peer_moves_16_bit_weights(folder: Path, method: str, hyper: dict[str, Any]) -> None:
    """torch's fused SGD does not; nobody may be measured who leaves the weights where they were."""
    limit = 0.5 if "norm_scope" in hyper else None
    made = prepared(folder, method, hyper, limit, "bfloat16")
    before = [parameter.detach().clone() for parameter in made.model.parameters()]
    take_step(made, limit)
    for was, (name, now) in zip(before, made.model.named_parameters(), strict=True):
        # A step below the precision of a norm weight of one is rounded away.
        assert now.dim() == 1 or not torch.equal(was, now), name


def test_lomo_optim_repeats_the_forward_while_the_first_is_held_and_then_lets_it_go(
    folder: Path,
) -> None:
    made = prepared(folder, "lomo_optim", {}, 0.5, "bfloat16")
    outputs: list[weakref.ref[torch.Tensor]] = []
    alive: list[list[bool]] = []

    def note(*_: Any) -> None:
        alive.append([output() is not None for output in outputs])

    def remember(module: nn.Module, arguments: Any, output: Any) -> None:
        outputs.append(weakref.ref(output.logits))

    made.model.register_forward_pre_hook(note)
    made.model.register_forward_hook(remember)
    optimizer: Any = made.optimizers[0][0]
    theirs = optimizer._optimizer
    update = theirs.fused_backward
    theirs.fused_backward = lambda *given: (note(), update(*given))
    take_step(made, 0.5)
    # Before the first forward, before the second, before the update.
    assert alive == [[], [True], [False, True]]
    note()
    assert alive[-1] == [False, False]


def test_the_loss_of_peers_is_the_authors_and_in_fp32_the_same_as_transformers(
    folder: Path,
) -> None:
    (spec, *_) = planned(study(dtype="bfloat16")).runs.values()
    spec = spec.model_copy(update={"model_path": str(folder)})
    batch = random_batch(vocabulary=320, batch_size=2, sequence_length=16, seed=0, device="cpu")
    losses = {}
    for dtype in ("float32", "bfloat16"):
        told = spec.model_copy(update={"dtype": dtype})
        made = prepare_model(told, ALONE, Findings(), seed=0)
        losses[dtype] = made.model(input_ids=batch.input_ids_BS, labels=batch.labels_BS).loss
    plain = load_model(str(folder), dtype="float32", attention="sdpa", device="cpu")
    theirs = plain(input_ids=batch.input_ids_BS, labels=batch.labels_BS).loss
    torch.testing.assert_close(losses["float32"], theirs)
    assert losses["bfloat16"].dtype == torch.bfloat16  # no fp32 copy of the logits


def test_without_clipping_lomo_optim_has_one_forward(folder: Path) -> None:
    made = prepared(folder, "lomo_optim", {}, None, "bfloat16")
    calls: list[int] = []
    made.model.register_forward_pre_hook(lambda *_: calls.append(1))
    take_step(made, None)
    assert len(calls) == 1


MINI = """
study: mini
title: a study for a test
data: generated
device: cpu
wandb: "off"
peers:
  models: [mini]
  batch_size: 2
  sequence_length: 16
  num_warmup_steps: 1
  num_timed_steps: 2
  rounds: 2
  variants:
    lomo: {method: lomo}
    floor: {method: floor}
"""


@pytest.mark.slow
def test_a_study_runs_from_nothing_round_by_round(tmp_path: Path) -> None:
    for name in ("Snakefile", "workflow", "profiles", "environment.yml"):
        source = ROOT / name
        copy: Any = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    entry = {"mini": {"weights": "random", "architecture": ARCHITECTURE}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config/models.yaml").write_text(yaml.safe_dump(entry))
    (tmp_path / "config/mini.yaml").write_text(MINI)
    pipeline = ["snakemake", "--cores", "2", "--configfile", "config/mini.yaml"]
    done = started(tmp_path, *pipeline)
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "results/mini"
    plan = read_plan(results)
    assert (results / "tables/table_peers.csv").is_file()
    assert (results / "figures/fig_peers.png").is_file()
    assert [p.name for p in (results / "models/mini").iterdir()] == ["config.json"]
    order = []
    for run_id, spec in plan.runs.items():
        record = read_record(results / "runs" / run_id / "record.json")
        assert record.status == "ok" and record.model is not None
        assert record.spec["variant"] == spec.variant
        assert record.model.missing == {"weights_sha256": "random weights, seed 0"}
        order.append((record.provenance.started_at, spec.round))
    assert [number for _, number in sorted(order)] == [1, 1, 2, 2]
    again = started(tmp_path, *pipeline, "-n")
    assert "Nothing to be done" in again.stdout + again.stderr


def started(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
