"""A GGUF file becomes a model folder: each value as dequantised, texts split as the model knows."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lomo.cli import main
from lomo.model.registry import local_entry
from lomo.model.weights import load_model, load_tokenizer
from lomo.tasks.tokens import text_encoder

Write = Callable[..., Path]
# Quantised by gguf's own code, which is another than the one that reads: transformers'.
KINDS = {"attn_q": "Q4_0", "ffn_down": "Q8_0", "attn_k": "Q4_1", "token_embd": "Q8_0"}


def imported(path: Path) -> tuple[Path, dict[str, Any]]:
    folder = path.parent / "model"
    assert main(["import", str(path), "--out", str(folder)]) == 0
    return folder, json.loads((folder / "imported.json").read_text())


def test_each_value_is_the_dequantised_one(original: Any, write_gguf: Write) -> None:
    from gguf import GGMLQuantizationType, dequantize, quantize

    folder, note = imported(write_gguf(kinds=KINDS))
    found = load_file(folder / "model.safetensors")
    kinds = {
        "q_proj": "Q4_0",
        "k_proj": "Q4_1",
        "down_proj": "Q8_0",
        "embed_tokens": "Q8_0",
    }
    for name, value in original.model.state_dict().items():
        if name == "lm_head.weight":
            continue
        kind = GGMLQuantizationType[next((k for p, k in kinds.items() if p in name), "F32")]
        # Rows change places on the way, blocks lie in rows: both orders give the same.
        expected = torch.from_numpy(dequantize(quantize(value.numpy(), kind), kind))
        assert torch.equal(found[name], expected), name
    assert found.keys() == original.model.state_dict().keys() - {"lm_head.weight"}
    assert note["dtype"] == "float32"


def test_the_note_counts_quantisations(original: Any, write_gguf: Write) -> None:
    path = write_gguf(kinds=KINDS)
    _, note = imported(path)
    sizes = {name: value.numel() for name, value in original.model.named_parameters()}
    counted = {kind: told["num_tensors"] for kind, told in note["quantisation"].items()}
    assert counted == {"F32": 13, "Q4_0": 2, "Q4_1": 2, "Q8_0": 3}
    assert sum(told["num_values"] for told in note["quantisation"].values()) == sum(sizes.values())
    assert note["quantisation"]["Q4_1"]["num_values"] == 2 * 32 * 64
    assert note["num_parameters"] == sum(sizes.values()) and note["architecture"] == "llama"
    assert 8 < note["bits_per_value"] < 32
    assert note["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "dequantised to float32, no value rounded again" in note["precision"]


def test_a_file_in_full_precision_is_the_same_model(original: Any, write_gguf: Write) -> None:
    folder, _ = imported(write_gguf())
    model = load_model(str(folder), dtype="float32", attention="eager", device="cpu").eval()
    tokens = torch.arange(3, 40)[None]
    original.model.set_attn_implementation("eager")
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, original.model(tokens).logits)
    entry = local_entry(folder, where="test")
    assert entry.architecture is not None
    assert {k: entry.architecture.get(k) for k in ("rms_norm_eps", "vocab_size")} == {
        "rms_norm_eps": 1e-5,
        "vocab_size": original.architecture["vocab_size"],
    }


@pytest.mark.parametrize(
    ("dtype", "kind"), [("bfloat16", "BF16"), ("float16", "F16"), ("bfloat16", "F32")]
)
def test_no_dtype_is_wider_than_the_values_need(
    original: Any, write_gguf: Write, dtype: str, kind: str
) -> None:
    halves = copy.deepcopy(original.model).to(getattr(torch, dtype)).float()
    folder, note = imported(write_gguf(model=halves, kinds={"": kind}))
    found = load_file(folder / "model.safetensors")
    assert {value.dtype for value in found.values()} == {getattr(torch, dtype)}
    assert note["dtype"] == dtype
    for name, value in found.items():
        assert torch.equal(value.float(), halves.state_dict()[name]), name


def test_texts_are_split_as_the_model_has_learnt_them(original: Any, write_gguf: Write) -> None:
    folder, _ = imported(write_gguf())
    tokenizer = load_tokenizer(str(folder))
    for text in ("the cat\n\n12 mats", "on  34 hats", "naïve 東京 🙂", " the 1 the", "\n\n\n7\t8"):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert tokens == original.tokenizer.encode(text).ids, text
        assert tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == text
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert ends == (1, 2, 2) and len(tokenizer) == original.architecture["vocab_size"]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], tokenize=False)
    assert chat == "<|im_start|>the cat<|im_end|>"


def test_prompt_and_answers_share_their_tokens(write_gguf: Write) -> None:
    folder, _ = imported(write_gguf())
    encoder = text_encoder(load_tokenizer(str(folder)), str(folder))
    encoded = encoder.encode("the cat sat\n\n1\nAnswer:", [" the mat", " the hats"])
    assert encoder.prefix == [] and encoder.end_id == 2
    told = [encoder.tokenizer.decode(encoded.prompt + answer) for answer in encoded.answers]
    assert told == ["the cat sat\n\n1\nAnswer: the mat", "the cat sat\n\n1\nAnswer: the hats"]


def test_a_splitting_that_transformers_knows_is_its_own(write_gguf: Write) -> None:
    folder, _ = imported(write_gguf(told={"tokenizer.ggml.pre": "qwen2"}))
    told = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]
    assert [part["type"] for part in told["pretokenizers"]] == ["Split", "ByteLevel"]


def cut(path: Path, num_bytes: int) -> Path:
    path.write_bytes(path.read_bytes()[:num_bytes])
    return path


BROKEN: dict[str, tuple[Callable[[Write], Path], str]] = {
    "no GGUF": (lambda write: cut(write(), 0), "is no GGUF file"),
    "cut in its header": (lambda write: cut(write(), 3000), "or was cut"),
    "cut in its tensors": (lambda write: cut(write(), -5000), "or was cut"),
    "no architecture that transformers reads": (
        lambda write: write(told={"general.architecture": "mammoth"}),
        "transformers can't read it",
    ),
    "an adapter": (lambda write: write(told={"general.type": "adapter"}), "a part of one"),
    "one of several": (lambda write: write(told={"split.count": 3}), "one of 3 parts"),
    "scaled positions": (
        lambda write: write(told={"llama.rope.scaling.type": "yarn"}),
        "its positions are scaled",
    ),
    "a tensor that is not read": (
        lambda write: write(extra={"rope_freqs.weight": torch.ones(8)}),
        "a part of the model would be lost",
    ),
    "biases that its config has not": (
        lambda write: write(extra={"blk.0.attn_q.bias": torch.ones(64)}),
        "a part of the model would be lost",
    ),
    "a tensor too few": (lambda write: write(without="blk.1.ffn_up.weight"), "lacks model.layers"),
    "no tokenizer": (
        lambda write: write(told={"tokenizer.ggml.model": None}),
        "holds no tokenizer",
    ),
    "an unknown splitting": (
        lambda write: write(told={"tokenizer.ggml.pre": "falcon"}),
        "splits texts in a way that is not known (tokenizer.ggml.pre: falcon)",
    ),
    "no end token": (
        lambda write: write(told={"tokenizer.ggml.eos_token_id": None}),
        "no end-of-sequence token",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_a_whole_model_is_refused(
    case: str, write_gguf: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write, told = BROKEN[case]
    path = write(write_gguf)
    assert main(["import", str(path), "--out", str(path.parent / "model")]) == 2
    assert told in capsys.readouterr().err
    assert [left.name for left in path.parent.iterdir()] == [path.name]


def test_another_file_than_the_asked_one_is_refused(
    write_gguf: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_gguf()
    command = ["import", str(path), "--out", str(path.parent / "model"), "--sha256", "0" * 64]
    assert main(command) == 2
    assert "its sha256 is" in capsys.readouterr().err


def test_what_is_there_is_kept(write_gguf: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_gguf()
    kept = path.parent / "model" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("years")
    assert main(["import", str(path), "--out", str(kept.parent)]) == 2
    assert "is already there" in capsys.readouterr().err
    assert kept.read_text() == "years"


def test_the_package_that_reads_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert main(["import", str(path), "--out", str(tmp_path / "model")]) == 2
    told = capsys.readouterr().err
    assert "the package gguf is not installed" in told and "pip install 'gguf>=0.19,<0.20'" in told
