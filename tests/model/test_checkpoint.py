"""Which weights a folder may hold: just those that its config asks for, and all of them hashed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
)

from lomo.errors import UserError
from lomo.model.registry import local_entry
from lomo.model.weights import load_model, open_for_ranks, weights_sha256
from lomo.study.inputs import model_files

Weights = dict[str, torch.Tensor]
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
LOADING = {"dtype": "float32", "attention": "eager", "device": "cpu"}
HEAD, FIRST = "lm_head.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """Saves a model of a config, with its weights or its config changed afterwards."""

    def save(
        config: PretrainedConfig,
        change: Callable[[Weights], Weights] = lambda weights: weights,
        **values: object,
    ) -> str:
        folder = tmp_path / "model"
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        path, told = folder / "model.safetensors", folder / "config.json"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
        told.write_text(json.dumps({**json.loads(told.read_text()), **values}))
        (folder / "tokenizer.json").write_text("{}")
        return str(folder)

    return save


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: w for name, w in weights.items() if name not in names}


def with_too(**tensors: torch.Tensor) -> Callable[[Weights], Weights]:
    return lambda weights: {**weights, **{n.replace("__", "."): t for n, t in tensors.items()}}


LLAMA = LlamaConfig(**SIZES, tie_word_embeddings=False)
TIED = LlamaConfig(**SIZES, tie_word_embeddings=True)
FAULTS: dict[str, tuple[PretrainedConfig, Any, dict[str, object], str]] = {
    "no head": (LLAMA, without(HEAD), {}, "1 missing: lm_head.weight"),
    "more layers": (LLAMA, without(), {"num_hidden_layers": 6}, "36 missing: model.layers.2."),
    "fewer layers": (LLAMA, without(), {"num_hidden_layers": 1}, "9 not of this model: model.lay"),
    "one tensor less": (LLAMA, without(FIRST), {}, f"1 missing: {FIRST}"),
    "another's head": (LLAMA, with_too(score__weight=torch.ones(2, 16)), {}, "model: score.weight"),
    "a vocabulary of other size": (LLAMA, without(), {"vocab_size": 80}, "(64, 16), asked (80, 16"),
    "other heads": (LLAMA, without(), {"num_key_value_heads": 1}, "k_proj.weight (stored (16, 16)"),
    "biases": (LLAMA, without(), {"attention_bias": True}, "8 missing: model.layers.0.self_attn"),
    "no body": (LLAMA, without("model.embed_tokens.weight"), {}, "missing: model.embed_tokens"),
    "integers": (
        LLAMA,
        lambda weights: {**weights, FIRST: weights[FIRST].to(torch.int8)},
        {},
        f"of another type than weights: {FIRST} is I8",
    ),
    "no embeddings at all, tied": (TIED, without("model.embed_tokens.weight"), {}, "missing"),
    "an expert less": (
        MixtralConfig(**SIZES, num_local_experts=3),
        lambda weights: {n: w for n, w in weights.items() if ".experts.2." not in n},
        {},
        "of another shape: model.layers.0.mlp.experts",
    ),
    "another family": (LLAMA, without(), {"architectures": None, "model_type": "opt"}, "missing"),
    "a tied head of other values": (
        TIED,
        lambda weights: {**weights, HEAD: weights["model.embed_tokens.weight"] + 1},
        {},
        "tie_word_embeddings is true, and the weights of the head are not",
    ),
}


@pytest.mark.parametrize(("config", "change", "values", "told"), FAULTS.values(), ids=FAULTS)
def test_weights_that_are_not_those_of_the_config_are_refused(
    config: PretrainedConfig, change: Any, values: Any, told: str, saved: Callable[..., str]
) -> None:
    folder = saved(config, change, **values)
    with pytest.raises(UserError) as refused:
        load_model(folder, **LOADING)
    assert told in str(refused.value)
    with pytest.raises(UserError):
        open_for_ranks(folder, rank=0, **LOADING)


GPT2 = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32)
OPT = OPTConfig(**{**SIZES, "num_hidden_layers": 1}, ffn_dim=32, word_embed_proj_dim=16)
MASK = torch.zeros(1, 1, 32, 32)
SOUND: dict[str, tuple[PretrainedConfig, Callable[[Weights], Weights]]] = {
    "untied": (LLAMA, without()),
    "tied": (TIED, without()),
    "a tied head of the same values": (
        TIED,
        lambda weights: {**weights, HEAD: weights["model.embed_tokens.weight"].clone()},
    ),
    "names without the prefix": (
        LLAMA,
        lambda weights: {name.removeprefix("model."): w for name, w in weights.items()},
    ),
    "frequencies of an old release": (
        LLAMA,
        with_too(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4)),
    ),
    "GPT-2's hub layout, with masks": (
        GPT2,
        lambda weights: {
            **{name.removeprefix("transformer."): w for name, w in weights.items()},
            "h.0.attn.bias": MASK,
        },
    ),
    "NeoX's masks": (
        GPTNeoXConfig(**SIZES),
        with_too(
            gpt_neox__layers__0__attention__bias=MASK.bool(),
            gpt_neox__layers__0__attention__masked_bias=torch.tensor(-1e9),
        ),
    ),
    "OPT": (OPT, without()),
    "experts one by one": (MixtralConfig(**SIZES, num_local_experts=3), without()),
    "two dtypes": (
        LLAMA,
        lambda weights: {**weights, FIRST: weights[FIRST].to(torch.bfloat16)},
    ),
}


@pytest.mark.parametrize(("config", "change"), SOUND.values(), ids=SOUND)
def test_what_a_family_itself_leaves_out_or_renames_is_loaded(
    config: PretrainedConfig, change: Callable[[Weights], Weights], saved: Callable[..., str]
) -> None:
    model = load_model(saved(config, change), **LOADING)
    torch.manual_seed(0)
    expected = AutoModelForCausalLM.from_config(config).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    rounded = {FIRST} if change is SOUND["two dtypes"][1] else set()
    assert all(torch.equal(found[name], expected[name]) for name in expected.keys() - rounded)


def test_the_hash_is_of_the_files_that_are_loaded(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    alone = weights_sha256(str(folder))
    single = folder / "model.safetensors"
    inner = hashlib.sha256(single.read_bytes()).digest()
    assert alone == hashlib.sha256(inner).hexdigest()
    shutil.copy(single, folder / "consolidated.safetensors")  # as Mistral's, which is never loaded
    assert weights_sha256(str(folder)) == alone
    assert f"{folder}/consolidated.safetensors" not in model_files(
        local_entry(folder, where="test"), "study"
    )


def test_shards_are_loaded_and_hashed_as_the_index_names_them(
    model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    whole = AutoModelForCausalLM.from_pretrained(model_folder)
    whole.save_pretrained(folder, max_shard_size="50KB")
    shutil.copy(model_folder / "tokenizer.json", folder)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 1
    files = model_files(local_entry(folder, where="test"), "study")
    assert {Path(file).name for file in files} >= set(shards)
    loaded = load_model(str(folder), **LOADING)
    assert all(torch.equal(*p) for p in zip(loaded.parameters(), whole.parameters(), strict=True))
    before = weights_sha256(str(folder))
    path = folder / shards[-1]
    save_file({n: w + 1 for n, w in load_file(path).items()}, path, metadata={"format": "pt"})
    assert weights_sha256(str(folder)) != before


@pytest.fixture
def cached(model_folder: Path, tmp_path: Path) -> Path:
    """The model as it lies in the hub's cache: a commit's folder of links into blobs/."""
    repository = tmp_path / "models--acme--Tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in model_folder.iterdir():
        shutil.copy(path, repository / "blobs" / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    return snapshot


def test_a_folder_of_the_hubs_cache_is_loaded_and_bears_the_models_name(
    cached: Path, model_folder: Path
) -> None:
    entry = local_entry(cached, where="test")
    assert entry.name == "acme--tiny"
    load_model(str(cached), **LOADING)
    assert weights_sha256(str(cached)) == weights_sha256(str(model_folder))


def test_two_models_of_one_commit_in_two_repositories_are_told_apart(cached: Path) -> None:
    other = cached.parents[1].with_name("models--acme--Other")
    shutil.copytree(cached.parents[1], other, symlinks=True)
    names = {
        local_entry(folder, where="test").name
        for folder in (cached, other / "snapshots" / cached.name)
    }
    assert names == {"acme--tiny", "acme--other"}


def test_the_repositorys_folder_is_answered_with_that_of_the_commit(cached: Path) -> None:
    with pytest.raises(UserError, match=f"did you mean {cached}?"):
        local_entry(cached.parents[1], where="test")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_to_nothing_is_told(cached: Path, name: str) -> None:
    (cached.parents[1] / "blobs" / name).unlink()
    with pytest.raises(UserError, match=f"{name}: is a broken link to ../../blobs/{name}"):
        local_entry(cached, where="test")
