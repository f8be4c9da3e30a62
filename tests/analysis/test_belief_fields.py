"""Every value of a record is edited by a little: doubted, or in the list of what nobody knows."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import synthetic

from lomo.errors import UserError
from lomo.record import belief, evidence
from lomo.record.schema import Record, read_record
from lomo.specs import MeasureSpec
from lomo.study.plan import Plan

KINDS = {
    "trained": "train/mini/lomo/rte/s42/t0",
    "zero-shot": "train/mini/zero_shot/rte/s42/t0",
    "measured": "measure/mini/lomo/128x8-bfloat16-plain",
    "measured on a GPU": "measure/mini/sgd/128x8-bfloat16-plain",
}
# Of every run: told once, by the machine, and neither the plan nor a file beside it has it too.
UNKNOWN = (
    *("provenance.git_commit", "provenance.git_dirty", "provenance.python", "provenance.platform"),
    *("provenance.packages.*", "provenance.device.name", "provenance.device.num_threads"),
    "provenance.device.cpu_capability",
    "memory.host_peak_rss_bytes",
    *("efficiency.formula", "efficiency.peak_table", "missing.*", "*.missing.*"),
    # Refused by others: where runs of one model, or all runs of a table, do not tell the same.
    *("model.num*", "model.*_bytes", "model.architecture", "model.tied_embeddings"),
    *("model.weights_sha256", "provenance.fingerprint", "protocol_version"),
)
# Of this kind of run.
OWN_UNKNOWN: dict[str, tuple[str, ...]] = {
    "trained": (
        # Of the evaluations that are not reported there are no samples.
        *(f"evaluations.[0-3].{name}" for name in ("num_cut", "num_ties", "other_metrics.*")),
        # Held by an upper limit alone, as data may have fewer examples than were asked for.
        *(f"training.num_{name}" for name in ("cut", "skipped_steps", "train_examples")),
        *("training.num_test_seen", "training.num_dev_shared", "throughput.padding_fraction"),
    ),
    "zero-shot": (
        *(f"evaluations.0.num_{name}" for name in ("cut", "ties", "examples")),
        "evaluations.0.other_metrics.*",
    ),
    # Without a peak of the device there is no share of it that would tell.
    "measured": ("efficiency.model_flops_per_token", "efficiency.hardware_flops_per_step"),
    "measured on a GPU": (
        *("provenance.device.memory_bytes", "provenance.device.driver"),
        *("memory.cuda.allocator_settings", "memory.cuda.timed.*"),
        *(f"memory.cuda.metered.{name}_peak_bytes" for name in ("requested", "active", "reserved")),
        *(f"memory.cuda.metered.{name}" for name in ("num_*", "driver_used_bytes")),
    ),
}
MODEL_FACTS = {
    **{"architecture": "gpt", "num_parameters": 7, "num_trainable_parameters": 7},
    **{"parameters_bytes": 7, "largest_parameter_bytes": 7, "tied_embeddings": True},
}


def plan() -> Plan:
    study = synthetic.study_dict(device="auto")
    study["superglue"] |= {"methods": ["zero_shot", "lomo"], "grids": {}, "tasks": ["rte"]}
    study["memory"] |= {"methods": ["sgd", "lomo"]}
    return synthetic.plan_of(
        {k: v for k, v in study.items() if k not in ("lora_rank", "throughput")}
    )


def on_a_gpu(record: dict[str, Any], spec: MeasureSpec) -> dict[str, Any]:
    """The record with all that only a GPU's has."""
    memory, speed = record["memory"], record["throughput"]
    peaks = dict.fromkeys(("requested", "allocated", "active", "reserved"), memory["peak_bytes"])
    peaks = {f"{name}_peak_bytes": value for name, value in peaks.items()}
    peaks |= {"num_alloc_retries": 1, "num_ooms": 0, "driver_used_bytes": 10**9}
    cuda = {"metered": peaks, "timed": peaks, "allocator_settings": "made up"}
    memory |= {"counter": "max_memory_allocated", "cuda": cuda, "missing": {}}
    device = record["provenance"]["device"]
    device |= {"kind": "cuda", "memory_bytes": 10**10, "driver": "made up", "missing": {}}
    tokens = spec.batch_size * spec.sequence_length
    rate = speed["tokens_per_s_per_device"]
    record["efficiency"] |= {
        **{"peak_flops_per_s": 1e12, "mfu": 1e6 * rate / 1e12, "hfu": 1e9 * rate / tokens / 1e12},
        **{"energy_j_per_step": 5.0, "energy_j_per_token": 5.0 / tokens, "missing": {}},
    }
    return record


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    planned = plan()

    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
        if run_id == KINDS["measured on a GPU"]:
            return on_a_gpu(record, planned.runs[run_id])
        result = record["result"]
        if result is not None:
            value, number = result["value"], result["num_examples"]
            stderr = (value * (1 - value) / (number - 1)) ** 0.5
            result |= {"stderr": stderr, "missing": {}, "other_metrics": {"acc": value}}
            record["evaluations"][-1] = result
        return record

    return synthetic.write_results(tmp_path_factory.mktemp("fields"), planned, change)


def leaves(block: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """(path, value) of all that is no object and no list; an empty list counts as one value."""
    inner = block.items() if isinstance(block, dict) else enumerate(block)
    for key, value in inner:
        if isinstance(value, dict) or (isinstance(value, list) and value):
            yield from leaves(value, (*path, key))
        elif not isinstance(value, list | dict):
            yield (*path, key), value


def edits_of(value: Any) -> list[Any]:
    """A little more, a little less, and nothing."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [new for new in (value + 1, value - 1, 0) if new != value]
    if isinstance(value, float):
        return [new for new in (value * 1.001 + 1e-6, value * 0.999 - 1e-6, 0.0) if new != value]
    return [f"{value} ", None] if isinstance(value, str) else [1]


def believed(record: dict[str, Any], spec: Any, folder: Path, scratch: Path) -> bool:
    scratch.write_text(json.dumps(record))
    try:
        return not belief.doubts(read_record(scratch), spec, folder)
    except UserError:
        return False


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("zero-shot", "measured")]


@pytest.mark.parametrize("kind", ["trained", "measured on a GPU", *SLOW])
def test_every_value_that_is_edited_is_doubted(kind: str, results: Path, tmp_path: Path) -> None:
    run_id = KINDS[kind]
    spec, folder = plan().runs[run_id], results / "runs" / run_id
    whole = json.loads((folder / "record.json").read_text())
    assert believed(whole, spec, folder, tmp_path / "record.json")
    names, unseen = set(), set()
    for path, value in leaves(whole):
        name = ".".join(map(str, path))
        names.add(name)
        for new in edits_of(value):
            edited = copy.deepcopy(whole)
            block: Any = edited
            for key in path[:-1]:
                block = block[key]
            block[path[-1]] = new
            if believed(edited, spec, folder, tmp_path / "record.json"):
                unseen.add(name)
    listed = (*UNKNOWN, *OWN_UNKNOWN[kind])
    expected = {name for name in names if any(fnmatch(name, asked) for asked in listed)}
    assert unseen == expected


def test_a_fact_of_a_model_that_is_edited_is_doubted(results: Path) -> None:
    path = results / "runs" / KINDS["measured"] / "record.json"
    whole = path.read_text()
    try:
        for name, value in MODEL_FACTS.items():
            record = json.loads(whole)
            record["model"][name] = value
            path.write_text(json.dumps(record))
            with pytest.raises(UserError, match="other facts of the same model"):
                belief.read_believed(results, plan().runs)
    finally:
        path.write_text(whole)
    assert len(belief.read_believed(results, plan().runs)) == len(plan().runs)


def test_two_examples_have_an_error_too(results: Path) -> None:
    """lm-eval's divides by one less than their number; of one example there is none."""
    record = json.loads((results / "runs" / KINDS["zero-shot"] / "record.json").read_text())
    lines = [
        {
            **{"doc_id": i, "label": i, "log_likelihoods": [1.0, 0.0], "num_tokens": [1, 1]},
            **{"acc": 1.0 - i, "acc_token_mean": 1.0 - i},
        }
        for i in (0, 1)
    ]
    told = {"num_examples": 2, "value": 0.5, "num_ties": 0, "other_metrics": {}, "missing": {}}
    for stderr, doubted in ((0.5, []), (0.4, ["result.stderr"])):
        result = {**record["result"], **told, "stderr": stderr}
        claims = evidence._samples(Record.model_validate({**record, "result": result}), lines)
        held = [belief.Claim(*claim) for claim in claims]
        assert [claim.key for claim in held if not claim.holds] == doubted
