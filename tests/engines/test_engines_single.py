"""What a plan refuses because an engine can't honour it, and how a batch is shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lomo import engines
from lomo.engines.ranks import Ranks
from lomo.errors import UserError
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.tasks.batches import IGNORED, Batch


def plan_with(study: dict[str, Any], section: str, **changes: Any) -> Any:
    if section == "superglue":
        study[section]["settings"] |= changes
    else:
        study[section] |= changes
    return make_plan(Study.model_validate(study), source="unit.yaml")


@pytest.mark.parametrize("section", ["superglue", "memory"])
def test_a_method_that_an_engine_cannot_run_is_refused(
    study_dict: dict[str, Any], section: str
) -> None:
    with pytest.raises(UserError, match="zero3 can't run lora") as caught:
        plan_with(study_dict, section, engine="zero3", num_devices=2)
    assert caught.value.where.endswith("engine")
    assert "adalomo, adamw, lomo, sgd" in str(caught.value.allowed)


def test_one_process_has_one_device(study_dict: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="one process can't use 2 devices") as caught:
        plan_with(study_dict, "memory", num_devices=2)
    assert caught.value.where == "unit.yaml: memory.num_devices"


def test_the_spec_says_how_a_run_is_spread(study_dict: dict[str, Any]) -> None:
    plan = plan_with(study_dict, "memory", engine="fsdp2", num_devices=3)
    spread = {s.run_id: s for s in plan.runs.values() if s.kind == "measure"}
    assert all(s.engine == "fsdp2" and s.num_devices == 3 for s in spread.values())
    assert all(run_id.endswith("-fsdp2-3") for run_id in spread)


def test_a_method_from_outside_is_not_known_to_work_spread() -> None:
    assert engines.cell("single", "theirs").verdict == "equal"
    assert engines.cell("fsdp2", "theirs").verdict == "refused"


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5])
def test_shares_have_one_shape_and_together_all_targets(num_rows: int) -> None:
    tokens = torch.arange(num_rows * 4).reshape(num_rows, 4)
    batch = Batch(tokens, torch.ones_like(tokens), tokens.clone())
    shares = []
    for rank in range(3):
        engine = object.__new__(Ranks)
        engine.rank, engine.world_size = rank, 3
        shares.append(engine.share(batch))
    assert len({share.input_ids_BS.shape for share in shares}) == 1
    assert sum(share.num_targets for share in shares) == batch.num_targets
    targets = torch.cat([share.labels_BS for share in shares])
    assert torch.equal(targets[(targets != IGNORED).any(dim=1)], batch.labels_BS)
