"""A record says of what its weights were made, and only where they are still those."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lomo.cli import main
from lomo.record.clock import Clock
from lomo.record.schema import read_record
from lomo.run.execute import execute
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.system.strict import parse


@pytest.mark.slow
def test_a_record_keeps_the_quantisation_of_its_weights(
    write_gguf: Callable[..., Path], study_dict: dict[str, Any], tmp_path: Path
) -> None:
    file, folder = write_gguf(kinds={"attn_v": "Q4_1"}), tmp_path / "model"
    assert main(["import", str(file), "--out", str(folder)]) == 0
    memory = study_dict["memory"] | {"models": [str(folder)], "methods": ["lomo"]}
    study = {key: value for key, value in study_dict.items() if key not in ("superglue", "memory")}
    study = {key: value for key, value in study.items() if not isinstance(value, dict)}
    plan = make_plan(parse(Study, study | {"memory": memory}, where="test"), source="test")
    spec = next(iter(plan.runs.values()))
    execute(spec, tmp_path / "run", Clock())
    told = read_record(tmp_path / "run" / "record.json").model
    assert told is not None
    assert told.weights_from["file"] == file.name
    assert told.weights_from["quantisation"]["Q4_1"] == {"num_tensors": 2, "num_values": 2 * 2048}

    # Weights that somebody put in their place are not of that file.
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    execute(spec, tmp_path / "run", Clock())
    told = read_record(tmp_path / "run" / "record.json").model
    assert told is not None and told.weights_from == {}
