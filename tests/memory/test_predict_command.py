"""`python -m lomo predict`: what it prints, and what it refuses before anything is built."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import BloomConfig, CTRLConfig, Gemma3nTextConfig

from lomo.cli import main
from lomo.model import hub
from tests.memory.predictions import CONFIGS, MIXTURE, SIZES

TINY_STORIES = {
    "model_type": "gpt_neo",
    "vocab_size": 50257,
    "hidden_size": 64,
    "num_layers": 8,
    "num_heads": 16,
    "intermediate_size": None,
    "max_position_embeddings": 2048,
    "window_size": 256,
    "attention_types": [[["global", "local"], 4]],
}
QUESTION = ["predict", "--method", "lomo", "--seq-len", "16", "--batch-size", "2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CONFIGS["llama"].save_pretrained(tmp_path)
    return tmp_path


def changed(folder: Path, **values: Any) -> str:
    path = folder / "config.json"
    data = json.loads(path.read_text())
    data.update(values)
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return str(folder)


def test_a_folder_with_a_config_alone_is_enough(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUESTION, "--model", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    terms = answer["sum_of_terms"]
    assert answer["account"] == "simulated"
    assert terms["parameters_bytes"] >= 2 * answer["num_parameters"]
    assert terms["parameters_bytes"] % 512 == 0
    assert answer["peak_bytes"] == sum(answer["at_peak"].values())
    assert answer["timeline"]


def test_the_table_says_gib_and_its_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUESTION, "--model", str(folder), "--checkpointing"]) == 0
    text = capsys.readouterr().out
    assert "GiB, per device" in text
    assert "optimizer state" in text
    assert "0.5 to 1 GiB" in text


def test_the_formula_says_that_it_is_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MIXTURE.save_pretrained(folder)
    assert main([*QUESTION, "--model", str(folder), "--dtype", "float32"]) == 0
    text = capsys.readouterr().out
    assert "No simulation: aten._grouped_mm" in text


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main([*QUESTION, *options]) == 2
    text = capsys.readouterr().err
    assert text.count("error:") == 1
    return text


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"hidden_size": None}, "the config lacks hidden_size"),
        ({"intermediate_size": None}, "the config lacks intermediate_size"),
        ({"model_type": None}, "the config lacks model_type"),
        ({"model_type": "llamma"}, "did you mean 'llama'?"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"num_attention_heads": 5}, "5 attention heads do not divide the width of 32"),
        ({"num_key_value_heads": 3}, "3 key-value heads do not divide 4 heads"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"max_position_embeddings": 8}, "16 tokens are more than"),
    ],
)
def test_a_config_that_is_not_sound(
    values: dict[str, Any], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"head_dim": None, **values}
    assert told in refused(capsys, "--model", changed(folder, **values))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--method", "lommo"], "did you mean 'lomo'?"),
        (["--method", "zero_shot"], "takes no training step"),
        (["--gpus", "2", "--engine", "single"], "one process can't use 2 devices"),
        (["--world-size", "64", "--engine", "fsdp2"], "64 devices can't share the 32 rows"),
        (["--method", "lora", "--engine", "zero3"], "zero3 can't run lora"),
        (["--wrap", "linear"], "single wraps nothing"),
    ],
)
def test_a_question_without_an_answer(
    options: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "--model", str(folder), *options)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("llama-7", "did you mean 'llama-7b'?"),
        ("nobody/nothing", "the hub gives no config.json"),
        ("/no/such/folder", "unknown model"),
    ],
)
def test_a_model_that_is_not_there(
    model: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "--model", model)


def test_without_a_network_the_hubs_client_is_not_left_to_try_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    asked: list[Any] = []

    def download(*_: Any, **options: Any) -> str:
        asked.append(options["local_files_only"])
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    told = refused(capsys, "--model", "nobody/nothing")
    assert "it cannot be reached, and the local cache has none" in told
    assert asked == [True]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_and_a_broken_link_beside_the_config(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{name}: is a Git LFS pointer" in refused(capsys, "--model", str(folder))
    path.unlink()
    path.symlink_to("../../blobs/gone")
    told = refused(capsys, "--model", str(folder))
    assert f"{name}: is a broken link to ../../blobs/gone" in told


def test_a_repository_of_the_hubs_cache(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = folder / "repository" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    told = refused(capsys, "--model", str(folder / "repository"))
    assert f"did you mean {snapshot}?" in told


def test_a_folder_without_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no config.json" in refused(capsys, "--model", str(tmp_path))


def test_an_attention_that_the_model_lacks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BloomConfig(vocab_size=120, hidden_size=32, n_layer=2, n_head=4).save_pretrained(folder)
    told = refused(capsys, "--model", str(folder), "--attention", "sdpa")
    assert "has no sdpa attention" in told
    assert main([*QUESTION, "--model", str(folder)]) == 0  # not asked for: what the model has
    assert "bfloat16, eager," in capsys.readouterr().out


def test_adapters_without_a_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CTRLConfig(vocab_size=120, n_embd=32, dff=64, n_layer=2, n_head=4).save_pretrained(folder)
    told = refused(capsys, "--model", str(folder), "--method", "lora", "--attention", "eager")
    assert "has no q_proj and v_proj" in told and "Wk, Wq, Wv" in told


def test_a_batch_of_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*QUESTION, "--model", str(folder), "--batch-size", "0"])
    assert left.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_sizes_that_a_family_works_out_itself(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TinyStories-1M: null stands for four times the width."""
    (folder / "config.json").write_text(json.dumps(TINY_STORIES))
    assert main([*QUESTION, "--model", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_parameters"] == 3_745_984
    other = json.dumps({**TINY_STORIES, "num_layers": 4})
    (folder / "config.json").write_text(other)
    assert "is no sound config" in refused(capsys, "--model", str(folder))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "mamba"}, "mamba has no attention layers: such models are not covered"),
        ({"model_type": "t5"}, "t5 is an encoder-decoder, no causal language model"),
        ({"model_type": "bert"}, "is_decoder is false: every token sees its answer"),
        ({"is_causal": False}, "is_causal is false: every token sees its answer"),
        ({"architectures": ["GemmaForCausalLM"]}, "architectures says GemmaForCausalLM"),
        ({"quantization_config": {"quant_method": "awq"}}, "asks for quantised weights (awq)"),
        ({"compression_config": {"format": "x"}}, "compression_config asks for quantised weights"),
        ({"transformers_weights": "a.safetensors"}, "names its weights itself"),
    ],
)
def test_a_model_that_cannot_be_trained_here(
    values: dict[str, Any], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = changed(folder, architectures=None)
    assert told in refused(capsys, "--model", changed(Path(asked), **values))


def test_sizes_by_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"hidden_size_per_layer_input": 8, "laurel_rank": 4, "vocab_size_per_layer_input": 120}
    config = Gemma3nTextConfig(
        **SIZES,
        **sizes,
        head_dim=8,
        intermediate_size=[64] * 3,
        num_key_value_heads=2,
        num_kv_shared_layers=0,
        layer_types=["full_attention"] * 3,
        activation_sparsity_pattern=[0.0] * 3,
    )
    config.save_pretrained(folder)
    assert main([*QUESTION, "--model", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_parameters"] > 0
    told = refused(capsys, "--model", changed(folder, intermediate_size=[64, 0, 64]))
    assert "intermediate_size is no list of 3 sizes, one a layer" in told


@pytest.mark.parametrize(
    ("card", "told", "code"),
    [
        ("24", "=> fits a card of 24 GiB: 0.00 of 23.00 GiB", 0),
        ("24GB", "=> fits a card of 24 GiB: 0.00 of 23.00 GiB", 0),
        ("nvidia rtx4090", "=> fits RTX 4090 (23.64 GiB): 0.00 of 22.64 GiB", 0),
        ("1", "=> does not fit a card of 1 GiB: short by 0.1 GiB", 3),
        ("0.5 GiB", "=> does not fit a card of 0.5 GiB: short by 0.6 GiB", 3),
    ],
)
def test_a_card_gets_a_verdict_and_an_exit_code(
    card: str, told: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*QUESTION, "--model", str(folder), "--gpu", card]) == code
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("=> 1.00 GiB is what a card must have: the true peak of 0.00, and 1")
    assert second.startswith(told)


def test_the_verdict_in_json_is_exact(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = [*QUESTION, "--model", str(folder), "--json", "--gpu"]

    def asked(gib: float, code: int) -> dict[str, Any]:
        assert main([*question, str(gib)]) == code
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    needed = asked(24, 0)["card_bytes"]
    assert needed == asked(24, 0)["peak_bytes"] + 2**30
    enough, short = asked(needed / 2**30, 0), asked((needed - 1) / 2**30, 3)
    assert (enough["fits"], enough["missing_bytes"]) == (True, 0)
    assert (short["fits"], short["missing_bytes"]) == (False, 1)


def test_more_devices_are_sharded_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--gpus", "--world-size"):
        assert main([*QUESTION, "--model", str(folder), option, "2"]) == 0
        assert ", fsdp2 x 2\n" in capsys.readouterr().out


def test_the_rank_of_adapters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = []
    for options in ([], ["--rank", "2"], ["--rank", "4"]):
        assert (
            main([*QUESTION, "--model", str(folder), "--method", "lora", *options, "--json"]) == 0
        )
        trained.append(json.loads(capsys.readouterr().out)["num_trainable_parameters"])
    assert trained[0] == trained[1] and 2 * trained[1] == trained[2]
    assert "lomo has no adapters" in refused(capsys, "--model", str(folder), "--rank", "4")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpu", "0"], "a card of 0 GiB"),
        (["--gpu", "RTX 4091"], "'RTX 4091' is no card of the table"),
        (["--gpu", "A100"], "did you mean A100 40GB or A100 80GB?"),
        (["--gpus", "64"], "64 devices can't share the 32 rows"),
        (["--seq-len", "65"], "65 tokens are more than"),
    ],
)
def test_a_card_or_a_size_that_is_a_mistake(
    options: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, "--model", str(folder), *options)


class _Failing(http.server.BaseHTTPRequestHandler):
    """A proxy in front of nothing."""

    def do_HEAD(self) -> None:
        self.send_error(503)

    def log_message(self, *_: Any) -> None:
        return


def test_a_hub_behind_a_proxy_that_reaches_nothing_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), _Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert not hub._answers(address)
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, address)
        monkeypatch.delenv("no_proxy", raising=False)
        assert not hub._answers("http://hub.invalid")
        server.shutdown()
