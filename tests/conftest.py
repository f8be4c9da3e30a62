"""What tests share: a tiny model folder, a generated data folder, specs, and the real test data."""

from __future__ import annotations

import copy
import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")


# Python's collector would look through torch and transformers while they are imported, and in each
# test again: optimizers of ours look through all that it knows.
gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines first: begun last, the longest of them would be left to one process."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> None:
    """Hides from the collector what there is before a file's tests; no garbage is among it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data, or a skip that says how to get it."""
    folder = Path(os.environ.get("LOMO_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "superglue").is_dir():
        pytest.skip("no real test data: set LOMO_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated SuperGLUE of 48 + 20 items a task, with its text beside it."""
    from lomo.tasks import miniature

    folder = tmp_path_factory.mktemp("data") / "superglue"
    miniature.write_superglue(folder, seed=0, num_train=48, num_val=20)
    miniature.write_text(folder.parent / "text.txt", seed=0, num_sentences=300)
    return folder


@pytest.fixture(scope="session")
def instructions(data_folder: Path) -> Path:
    """48 instructions of that world in Alpaca's layout, every other one with an input."""
    lines = (data_folder / "RTE" / "train.jsonl").read_text().splitlines()
    items = [
        {
            "instruction": f"{number}. Say what happened: {row['hypothesis']}",
            "input": row["premise"] if number % 2 else "",
            "output": " ".join([row["premise"]] * (1 + number % 3)),
        }
        for number, row in enumerate(map(json.loads, lines))
    ]
    file = data_folder.parent / "instructions.json"
    file.write_text(json.dumps(items))
    return file


@pytest.fixture
def instruct_dict(model_folder: Path, instructions: Path) -> dict[str, Any]:
    """A small study of instruction tuning on them."""
    return {
        "study": "unit",
        "title": "a study for tests",
        "data": "generated",
        "wandb": "off",
        "device": "cpu",
        "instruct": {
            "models": [str(model_folder)],
            "methods": ["zero_shot", "sgd", "adamw", "lora", "lora_lomo", "lomo", "adalomo"],
            "data": str(instructions),
            "settings": {
                "epochs": 2,
                "batch_size": 8,
                "num_train": 30,
                "num_dev": 6,
                "num_test": 9,
                "max_length": 240,
                "dtype": "float32",
                "activation_checkpointing": False,
            },
        },
    }


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A LLaMA of two layers with its tokenizer, pretrained for a moment."""
    from lomo.model.registry import ModelEntry, Pretraining
    from lomo.run.pretrain import make_base_model

    entry = ModelEntry(
        name="test",
        weights="pretrain",
        architecture={
            "model_type": "llama",
            "vocab_size": 400,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
        },
        pretrain=Pretraining(num_steps=5, batch_size=4, sequence_length=32, learning_rate=0.003),
    )
    folder = tmp_path_factory.mktemp("models") / "test"
    make_base_model(entry, data_folder.parent / "text.txt", folder, seed=0, progress=False)
    return folder


@pytest.fixture
def study_dict(unit_study: dict[str, Any]) -> dict[str, Any]:
    """A small study on these, as a study file would hold it."""
    return copy.deepcopy(unit_study)


@pytest.fixture(scope="session")
def unit_study(model_folder: Path, data_folder: Path) -> dict[str, Any]:
    """The same for fixtures of a wider scope, which must not change it."""
    return {
        "study": "unit",
        "title": "a study for tests",
        "data": str(data_folder),
        "wandb": "off",
        "device": "cpu",
        "superglue": {
            "models": [str(model_folder)],
            "methods": ["zero_shot", "sgd", "adamw", "lora", "lora_lomo", "lomo", "adalomo"],
            "tasks": ["rte"],
            "settings": {
                "epochs": 2,
                "batch_size": 8,
                "num_train": 32,
                "num_dev": 8,
                "num_test": 16,
                "max_length": 200,
                "dtype": "float32",
                "activation_checkpointing": False,
            },
        },
        "memory": {
            "models": [str(model_folder)],
            "methods": ["sgd", "adamw", "lora", "lora_lomo", "lomo", "adalomo"],
            "batch_size": 2,
            "sequence_length": 32,
            "activation_checkpointing": [False, True],
            "num_timed_steps": 3,
        },
    }
