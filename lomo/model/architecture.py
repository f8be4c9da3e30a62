"""The configuration of a model whose weights are not needed: by name, folder or hub id."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError, nearest
from lomo.model import june_2023
from lomo.model.causal_lm import attention_of, check_causal, experts_note, language_part
from lomo.model.checkpoint import check_present, check_unquantised, read_config
from lomo.model.hub import config_from_hub
from lomo.model.registry import REGISTRY, ModelEntry, check_head_loss, registry, snapshot_hint

if TYPE_CHECKING:
    from lomo.specs import MeasureSpec

# What decides sizes. A config that lacks one would silently get the library's default.
_NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_NEEDED_IF_KNOWN = ("intermediate_size", "ffn_dim")
_OTHER_NAMES = {"hidden_size": ("n_embed", "d_model"), "intermediate_size": ("n_inner",)}


@dataclass(frozen=True)
class Architecture:
    """A causal LM's Hugging Face configuration, and the name under which it was asked for.

    notes: what of the model is counted, where that is not all or not plain; a sentence each.
    """

    name: str
    config: Any
    notes: tuple[str, ...] = ()


def read_architecture(model: str, *, where: str) -> Architecture:
    """The configuration of a name in the registry, a folder with config.json, or a hub id.

    Only a hub id may use the network. Raises UserError for a model that is none of these, and for
    a config whose sizes are missing or do not fit together.
    """
    values, source = _values(model, where)
    return _architecture(Path(model).name, values, source)


def entry_architecture(entry: ModelEntry) -> Architecture:
    """The configuration of a registry entry, without the network. Raises UserError for a hub id
    whose architecture the registry does not tell."""
    if entry.path is not None:
        return read_architecture(entry.path, where="models")
    if entry.architecture is None:
        raise UserError(
            "its architecture is on the hub only",
            where=f"{REGISTRY}: {entry.name}",
            fix="write the values of its config.json under `architecture`",
        )
    return _architecture(entry.name, entry.architecture, f"{REGISTRY}: {entry.name}")


def _architecture(name: str, values: Mapping[str, Any], source: str) -> Architecture:
    check_unquantised(values, where=source)
    part, of_what = language_part(values, source)
    config = _config(part, source)
    notes = (of_what, experts_note(config))
    return Architecture(name, config, tuple(note for note in notes if note))


def count_parameters(architecture: Architecture) -> int:
    """Parameters of the model, tied ones once; nothing is allocated."""
    return sum(parameter.numel() for parameter in without_bytes(architecture).parameters())


def without_bytes(architecture: Architecture) -> Any:
    """The model on the meta device: modules and shapes."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            copy.deepcopy(architecture.config), trust_remote_code=False
        )


def check_request(architecture: Architecture, spec: MeasureSpec) -> None:
    """Raises UserError for what the model cannot do."""
    from transformers import AutoModelForCausalLM

    config, name = architecture.config, architecture.name
    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    check_attention(config, spec.attention, name, where="--attention")
    if spec.activation_checkpointing and not model_class.supports_gradient_checkpointing:
        raise UserError(f"{name} can't checkpoint its activations", where="--checkpointing")
    check_head_loss(spec.head_loss, spec.engine, config.to_dict(), "--head-loss")
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and spec.sequence_length > positions:
        raise UserError(
            f"{spec.sequence_length} tokens are more than {name} has positions",
            where="--seq-len",
            allowed=f"at most {positions}",
        )


def check_attention(config: Any, attention: str, name: str, *, where: str) -> None:
    """Raises UserError for an attention that the family's code does not have."""
    if attention == "sdpa" and attention_of(config) != "sdpa":
        raise UserError(f"{name} has no sdpa attention", where=where, allowed="eager")


def _values(model: str, where: str) -> tuple[dict[str, Any], str]:
    known = registry()
    if model in known:
        entry = known[model]
        if entry.path is not None:
            return read_config(Path(entry.path) / "config.json"), str(entry.path)
        if entry.architecture is not None:
            return dict(entry.architecture), f"{REGISTRY}: {model}"
        return config_from_hub(str(entry.hub), entry.revision, where), str(entry.hub)
    folder = Path(model)
    if folder.is_dir():
        path = folder / "config.json"
        if not (path.is_file() or path.is_symlink()):
            raise UserError(
                "no model folder (it has no config.json)",
                where=f"{where}: {model}",
                allowed="a folder with config.json; weights are not needed",
                fix=snapshot_hint(folder),
            )
        values = read_config(path)
        check_present(folder, values, where=f"{where}: {model}")
        return values, str(path)
    if _is_hub_id(model):
        return _of_hub_id(model, where), model
    close = nearest(model, known)
    raise UserError(
        f"unknown model {model!r}",
        where=where,
        allowed=f"one of {', '.join(known)}, a folder with config.json, or a hub id OWNER/NAME",
        fix=f"did you mean {close!r}?" if close else None,
    )


def _of_hub_id(model: str, where: str) -> dict[str, Any]:
    """The hub's config; where it gives none, the message names the registry's model, if one is."""
    try:
        return config_from_hub(model, None, where)
    except UserError as error:
        name = model.rpartition("/")[2].lower()
        entry = registry().get(name)
        if entry is None or entry.architecture is None:
            raise
        fix = f"give {name}: {REGISTRY} has the architecture of that name, and no network is needed"
        raise UserError(error.what, where=error.where, allowed=error.allowed, fix=fix) from error


def _is_hub_id(model: str) -> bool:
    owner, slash, name = model.partition("/")
    return bool(slash and owner and name) and "/" not in name and owner[0] not in ".~"


def read_family(values: Mapping[str, Any], source: str) -> tuple[Any, Any]:
    """The classes of a config's family: configuration and causal LM, both of transformers.

    Raises UserError where there are none, and for quantised weights.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    check_unquantised(values, where=source)
    kind = values.get("model_type")
    if kind is None:
        raise UserError("the config lacks model_type", where=source)
    if kind not in CONFIG_MAPPING:
        close = nearest(str(kind), CONFIG_MAPPING.keys())
        raise UserError(
            f"transformers knows no model_type {kind!r}",
            where=source,
            allowed="an architecture of the installed transformers; a model's own code is not run",
            fix=f"did you mean {close!r}?" if close else None,
        )
    config_class = CONFIG_MAPPING[kind]
    if config_class not in AutoModelForCausalLM._model_mapping:
        both = getattr(config_class, "is_encoder_decoder", False) is True
        what = "an encoder-decoder, no" if both else "no"
        raise UserError(f"{kind} is {what} causal language model", where=source)
    model_class: Any = AutoModelForCausalLM._model_mapping[config_class]
    _check_class(values.get("architectures"), model_class.__name__, source)
    return config_class, model_class


def _check_class(saved: Any, asked: str, source: str) -> None:
    """Weights of one family may bear the names of another's, and would be loaded as those."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    others = [name for name in saved if name in known] if isinstance(saved, list) else []
    if others and asked not in others:
        raise UserError(
            f"architectures says {others[0]}, its model_type is that of {asked}",
            where=source,
            fix="give the config that the weights were saved with",
        )


def sound_config(values: Mapping[str, Any], config_class: Any, source: str) -> Any:
    """The configuration of `values`, a causal one. Raises UserError for one that is not sound."""
    if june_2023.in_use():  # it is asked for LLaMA alone, and lacks these checks
        return config_class.from_dict(dict(values))
    from huggingface_hub.errors import StrictDataclassError

    wrong = (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError)
    try:
        config = config_class.from_dict(dict(values))
    except wrong as error:  # transformers checks much of it itself
        raise UserError(f"is no sound config: {_last_line(error)}", where=source) from error
    check_causal(config, where=source)
    return config


def _config(values: dict[str, Any], source: str) -> Any:
    config_class, _ = read_family(values, source)
    _check_sizes(values, config_class, source)
    config = sound_config(values, config_class, source)
    shared, heads = getattr(config, "num_key_value_heads", None), config.num_attention_heads
    if shared is not None and (shared < 1 or heads % shared):
        raise UserError(f"{shared} key-value heads do not divide {heads} heads", where=source)
    return config


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _check_sizes(values: Mapping[str, Any], config_class: Any, source: str) -> None:
    own_names: dict[str, str] = getattr(config_class, "attribute_map", {})
    # Those of June 2023 are arguments alone.
    arguments = inspect.signature(config_class).parameters
    fields = {*dir(config_class), *getattr(config_class, "__dataclass_fields__", ()), *arguments}
    if own_names.get("num_attention_heads", "num_attention_heads") not in fields:
        raise UserError(
            f"{values['model_type']} has no attention layers: such models are not covered",
            where=source,
            allowed="causal language models with attention in each layer",
        )
    wanted = [*_NEEDED, *(name for name in _NEEDED_IF_KNOWN if name in fields)]
    sizes: dict[str, int] = {}
    for name in wanted:
        own = own_names.get(name, name)
        others = (name, *_OTHER_NAMES.get(name, ()))
        value = next((values[key] for key in (own, *others) if values.get(key) is not None), None)
        if value is None and own in values and getattr(config_class, own, name) is None:
            continue  # null stands for a size that the family works out from others
        if value is None:
            raise UserError(f"the config lacks {own}", where=source)
        if isinstance(value, list) and name in _NEEDED_IF_KNOWN:
            _check_by_layer(value, sizes["num_hidden_layers"], own, source)
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{own} is {value!r}, no whole number above 0", where=source)
        sizes[name] = value
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if width % heads and values.get("head_dim") is None:
        raise UserError(
            f"{heads} attention heads do not divide the width of {width}",
            where=source,
            allowed="a width that is a multiple of the heads, or head_dim in the config",
        )


def _check_by_layer(value: list[Any], num_layers: int, name: str, source: str) -> None:
    """A list holds one size a layer."""
    if len(value) != num_layers or not all(type(size) is int and size > 0 for size in value):
        raise UserError(
            f"{name} is no list of {num_layers} sizes, one a layer, but {value!r:.60}", where=source
        )
