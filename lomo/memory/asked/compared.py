"""How far a prediction's exactness is tested, for the very model type, method and engine.

What stands here is what tests/memory/test_predict.py compares with real runs; a test holds them
together.
"""

from __future__ import annotations

# Methods of which a run on one CPU process was met to the byte, by model type.
ON_ONE = {
    "llama": ("adalomo", "adamw", "lomo", "lora", "lora_lomo", "sgd"),
    "qwen3": ("adalomo", "adamw", "lomo", "lora", "lora_lomo", "sgd"),
    "opt": ("adalomo", "adamw", "lomo", "lora", "lora_lomo", "sgd"),
    "mistral": ("lomo",),
    "gpt2": ("adalomo", "adamw", "lomo"),
}
# The same of two ranks under FSDP2: the sum of terms, to the byte.
ON_RANKS = {"llama": ("adamw", "lomo")}


def sentence(model_type: str, method: str, engine: str) -> str:
    """What tests say of such a prediction."""
    one = engine == "single"
    tested = ON_ONE if one else ON_RANKS
    met = "a run on a CPU: equal to the byte"
    if not one:
        met = "a run of two CPU ranks: the sum of terms is equal to the byte"
    if method in tested.get(model_type, ()):
        return f"Tests compare {model_type} by {method} with {met}."
    others = " and ".join(kind for kind, methods in tested.items() if method in methods)
    where = "" if one else f" under {engine}"
    told = f"tests compare {others} with {met}" if others else "no model was"
    return f"{model_type} by {method}{where} was not compared with a run; {told}."
