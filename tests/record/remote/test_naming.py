"""What W&B is told of a run: by the tables' names, and no place of this machine."""

from __future__ import annotations

import pytest

from lomo.record.remote.naming import cell_of, config_of, key_of, without_places

PLACES = {
    "/home/ann/models/x is broken": "x is broken",
    "no file '/home/ann/x.json', or cut": "no file 'x.json', or cut",
    "a,/home/b/c,d": "a,c,d",
    "~/data/superglue/": "superglue",
    "../../../home/ann/results/published/x.json": "x.json",
    "file:///opt/cache/x": "x",
}
NONE = (
    "tokens/s and 1/2, a / b",
    "https://a.b/c/d",
    "results/tiny/data",
    "train/tiny-s/lomo/rte/s42/t0",
    "bytes/parameter; ./x",
)


@pytest.mark.parametrize("text", PLACES)
def test_a_path_of_this_machine_goes(text: str) -> None:
    assert without_places({"told": [text]}) == {"told": [PLACES[text]]}


@pytest.mark.parametrize("text", NONE)
def test_what_every_machine_has_stays(text: str) -> None:
    assert without_places(text) == text


def test_a_field_that_is_a_path_goes_whole() -> None:
    assert without_places({"model_path": "/mnt/my models/m", "seed": 1, "rank": None}) == {
        "model_path": "m",
        "seed": 1,
        "rank": None,
    }


def test_a_config_has_the_names_of_the_tables() -> None:
    config = config_of({"method": "lora_lomo", "task": "boolq", "data_path": "/a/b/data"})
    assert config["names"] == {"method": "LoRA+LOMO", "task": "BoolQ"}
    assert (config["method"], config["data_path"]) == ("lora_lomo", "data")
    assert config_of({"method": "of another package"})["names"]["method"] == "of another package"


def test_a_key_has_no_dot() -> None:
    """W&B would look for `1-8b` inside of `llama-3`."""
    assert key_of("accuracy", "llama-3.1 8b", "rte") == "accuracy/llama-3-1-8b/rte"
    assert cell_of("measure/m/lomo/512x8-bfloat16/round1") == "512x8-bfloat16"
    assert cell_of("train/m/lomo/rte/s42/t0") == "rte"
