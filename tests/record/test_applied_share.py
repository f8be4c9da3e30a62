"""The share of a step that was applied, from a history: worked out by hand; and older records."""

from __future__ import annotations

from typing import Any

import pytest

from lomo.record.applied import NOTHING_ASKED, applied_in, group_of
from lomo.record.schema import OLDER, Applied, Record


def event(step: int, **groups: tuple[float, float, int, int, int, int]) -> dict[str, Any]:
    keys = (
        *("applied_intended", "intended_squares", "num_asked", "num_moved"),
        *("num_watched", "num_parameters"),
    )
    told = {name: dict(zip(keys, values, strict=True)) for name, values in groups.items()}
    return {"event": "applied", "step": step, "intended": "rule", "groups": told}


def test_shares_are_of_sums_and_groups_weigh_as_many_as_they_stand_for() -> None:
    found = applied_in(
        [
            event(1, mlp=(1.0, 4.0, 8, 2, 10, 1000), norms=(0.0, 2.0, 4, 0, 5, 5)),
            {"event": "step", "step": 1},
            event(9, mlp=(5.0, 6.0, 2, 1, 10, 1000)),
        ]
    )
    assert found is not None and (found.num_steps, found.intended) == (2, "rule")
    mlp, norms = found.groups["mlp"], found.groups["norms"]
    assert (mlp.share, mlp.moved, mlp.num_asked, mlp.num_parameters) == (0.6, 0.3, 10, 1000)
    assert (norms.share, norms.moved) == (0, 0)
    assert found.share == pytest.approx((100 * 6.0 + 1 * 0.0) / (100 * 10.0 + 1 * 2.0))


def test_a_history_without_watched_steps_gives_none_and_no_step_no_share() -> None:
    assert applied_in([{"event": "step", "step": 1}]) is None
    found = applied_in([event(1, head=(0.0, 0.0, 0, 0, 4, 4))])
    assert found is not None and found.share is None
    assert found.groups["head"].missing == {"share": NOTHING_ASKED, "moved": NOTHING_ASKED}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("model.layers.3.self_attn.q_norm.weight", "norms"),
        ("model.layers.3.post_attention_layernorm.weight", "norms"),
        ("model.layers.3.mlp.gate_proj.weight", "mlp"),
        ("model.layers.3.block_sparse_moe.experts.1.w1.weight", "mlp"),
        ("base_model.model.model.layers.0.self_attn.v_proj.base_layer.weight", "attention"),
        ("model.embed_tokens.weight", "embeddings"),
        ("lm_head.weight", "head"),
        ("embed_out.weight", "head"),
        ("transformer.wte.weight", "embeddings"),
        ("transformer.h.0.ln_1.bias", "norms"),
        ("transformer.h.0.attn.c_attn.weight", "attention"),
        ("transformer.h.0.mlp.c_fc.weight", "mlp"),
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", "mlp"),
        ("score.weight", "other"),
    ],
)
def test_a_parameters_group_is_told_by_its_name(name: str, group: str) -> None:
    assert group_of(name) == group


def test_a_record_from_before_is_read_and_says_so(older: dict[str, Any]) -> None:
    record = Record.model_validate(older)
    assert record.applied is None and record.missing["applied"] == OLDER
    # Written anew it has both, and a null that was told needs its own reason still.
    again = Record.model_validate_json(record.model_dump_json(), strict=True)
    assert again == record
    with pytest.raises(ValueError, match="null without a reason"):
        Record.model_validate(older | {"applied": None})


@pytest.fixture
def older() -> dict[str, Any]:
    absent = ("evidence", "model", "training", "result", "throughput", "efficiency", "memory")
    device = {
        **{"kind": "cpu", "name": "CPU", "num_devices": 1, "memory_bytes": 1, "num_threads": 1},
        **{"driver": "none", "co_tenants": [], "cpu_capability": "AVX2"},
    }
    return {
        **{"study": "s", "run_id": "r", "kind": "train", "status": "ok", "spec": {}},
        "provenance": {
            **{"fingerprint": "f", "git_commit": "c", "git_dirty": False, "python": "3"},
            **{"platform": "p", "packages": {}, "device": device},
            "started_at": "2026-01-01T00:00:00Z",
        },
        "clock": dict.fromkeys(
            ("load_s", "compile_s", "train_s", "evaluate_s", "save_s", "other_s", "wall_s"), 1.0
        ),
        "evaluations": [],
        **dict.fromkeys(absent),
        "missing": dict.fromkeys(absent, "made up"),
    }


def test_what_is_there_has_no_reason() -> None:
    with pytest.raises(ValueError, match="reason without a null"):
        Applied(intended="rule", num_steps=1, share=1.0, groups={}, missing={"share": "?"})
