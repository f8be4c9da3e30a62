"""The ledger of whole steps on a small LLaMA: what each method holds, and where its peak is."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from lomo.memory.measured.ledger import Ledger, StepMeter

VOCAB, BATCH, SEQ = 512, 2, 32
LEARNING_RATE = 0.01
KERNEL_SCRATCH_BYTES = 64  # scalars that fp32 kernels make inside themselves
RNG_STATE_BYTES = 5056  # what checkpointing keeps for each layer, made by no operator

every_graph = pytest.mark.parametrize(
    ("attention", "checkpointing"),
    [("eager", False), ("eager", True), ("sdpa", False), ("sdpa", True)],
)


@pytest.fixture(autouse=True, scope="module")
def _no_collection_within_a_step() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def make_llama(
    attention: str = "sdpa", *, checkpointing: bool = False, tied: bool = False
) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=SEQ,
        use_cache=False,
        tie_word_embeddings=tied,
        attn_implementation=attention,
    )
    model = LlamaForCausalLM(config).train()
    if checkpointing:
        # The name changed in transformers 5.
        enable = getattr(
            model, "activation_checkpointing_enable", model.gradient_checkpointing_enable
        )
        enable()
    return model


class InHook:
    """Lets go of each gradient in its hook, with or without LOMO's update before."""

    def __init__(self, model: torch.nn.Module, *, update: bool) -> None:
        def hook(parameter: torch.Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            if update:
                parameter.data.add_(gradient, alpha=-LEARNING_RATE)
            parameter.grad = None

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(hook)

    def step(self) -> None:
        """Nothing is left to do."""

    def zero_grad(self) -> None:
        """Nothing is left to drop."""


def make_optimizer(method: str, model: torch.nn.Module) -> Any:
    match method:
        case "lomo" | "floor":
            return InHook(model, update=method == "lomo")
        case "sgd":
            return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, foreach=False)
        case _:
            return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, foreach=False)


def no_phase(_name: str) -> None:
    """For steps that no meter watches."""


def take_step(
    model: Any, optimizer: Any, token_ids: torch.Tensor, phase: Callable[[str], None] = no_phase
) -> None:
    phase("forward")
    loss = model(input_ids=token_ids, labels=token_ids).loss
    phase("backward")
    loss.backward()
    phase("step")
    optimizer.step()
    optimizer.zero_grad()


def meter_step(model: Any, optimizer: Any, token_ids: torch.Tensor) -> Ledger:
    with StepMeter(model, lambda: optimizer, inputs=token_ids) as meter:
        take_step(model, optimizer, token_ids, meter.phase)
    return meter.ledger()


def meter_method(method: str, model: LlamaForCausalLM) -> Ledger:
    optimizer = make_optimizer(method, model)
    token_ids = torch.randint(0, VOCAB, (BATCH, SEQ))
    take_step(model, optimizer, token_ids)  # the first step makes the state
    return meter_step(model, optimizer, token_ids)


def parameter_bytes(model: torch.nn.Module) -> list[int]:
    return [parameter.nbytes for parameter in model.parameters()]


def most_gradients_alive(ledger: Ledger) -> int:
    alive: set[str] = set()
    most = 0
    for event in ledger.timeline:
        if event.event == "gradient_created":
            assert event.parameter is not None
            alive.add(event.parameter)
        elif event.event == "gradient_released":
            assert event.parameter is not None
            alive.discard(event.parameter)
        most = max(most, len(alive))
    return most


@every_graph
def test_lomo_holds_one_gradient_and_peaks_on_the_floor(
    attention: str, checkpointing: bool
) -> None:
    model = make_llama(attention, checkpointing=checkpointing)
    lomo = meter_method("lomo", model)
    floor = meter_method("floor", make_llama(attention, checkpointing=checkpointing))
    largest = max(parameter_bytes(model))
    assert lomo.gradients_peak_bytes == largest
    assert most_gradients_alive(lomo) == 1
    assert floor.peak_bytes <= lomo.peak_bytes <= floor.peak_bytes + largest
    assert lomo.sum_of_terms["optimizer_state_bytes"] == 0
    created = [event.parameter for event in lomo.timeline if event.event == "gradient_created"]
    assert sorted(filter(None, created)) == sorted(name for name, _ in model.named_parameters())


@every_graph
def test_sgd_holds_all_gradients(attention: str, checkpointing: bool) -> None:
    model = make_llama(attention, checkpointing=checkpointing)
    ledger = meter_method("sgd", model)
    total = sum(parameter_bytes(model))
    assert ledger.gradients_peak_bytes == total
    assert ledger.sum_of_terms["parameters_bytes"] == total
    assert most_gradients_alive(ledger) == len(parameter_bytes(model))
    released = [event for event in ledger.timeline if event.event == "gradient_released"]
    assert {event.phase for event in released} == {"step"}


def test_adamw_state_is_two_copies_and_the_step_counts() -> None:
    model = make_llama()
    ledger = meter_method("adamw", model)
    sizes = parameter_bytes(model)
    assert ledger.sum_of_terms["optimizer_state_bytes"] == 2 * sum(sizes) + 4 * len(sizes)
    assert ledger.at_start["optimizer_state_bytes"] == 2 * sum(sizes) + 4 * len(sizes)


def test_state_made_in_the_metered_step_counts_from_its_birth() -> None:
    model = make_llama(checkpointing=True)
    optimizer = make_optimizer("adamw", model)
    ledger = meter_step(model, optimizer, torch.randint(0, VOCAB, (BATCH, SEQ)))
    assert ledger.at_start["optimizer_state_bytes"] == 0
    assert ledger.peak_phase == "step"
    sizes = parameter_bytes(model)
    assert ledger.at_peak["optimizer_state_bytes"] == 2 * sum(sizes) + 4 * len(sizes)


def test_methods_stand_in_the_order_of_the_paper() -> None:
    totals = [
        meter_method(method, make_llama(checkpointing=True)).sum_of_terms["total_bytes"]
        for method in ("lomo", "sgd", "adamw")
    ]
    assert totals == sorted(set(totals))


@every_graph
@pytest.mark.parametrize("method", ["lomo", "sgd", "adamw"])
def test_parts_sum_to_the_total(method: str, attention: str, checkpointing: bool) -> None:
    ledger = meter_method(method, make_llama(attention, checkpointing=checkpointing))
    assert sum(ledger.at_peak.values()) == ledger.peak_bytes
    assert ledger.peak_bytes == max(event.total_bytes for event in ledger.timeline)
    assert ledger.peak_bytes == max(ledger.phase_peak_bytes.values())
    assert min(*ledger.at_peak.values(), *ledger.at_start.values()) >= 0
    for event in ledger.timeline:
        assert event.gradients_bytes >= 0
        assert event.activations_bytes >= 0
        assert event.gradients_bytes + event.activations_bytes <= event.total_bytes
    terms = dict(ledger.sum_of_terms)
    assert terms.pop("total_bytes") == sum(terms.values())
    orders = [event.order for event in ledger.timeline]
    assert orders == sorted(orders)


def profiled_growth_bytes(run: Callable[[], None]) -> int:
    """The highest running sum of all that the allocator gave out and took back in `run`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results: Any = profiler.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    growth = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        growth += event.nbytes()
        highest = max(highest, growth)
    return highest


@every_graph
@pytest.mark.parametrize("method", ["lomo", "sgd", "adamw"])
def test_peak_agrees_with_the_profiler(method: str, attention: str, checkpointing: bool) -> None:
    model = make_llama(attention, checkpointing=checkpointing)
    optimizer = make_optimizer(method, model)
    token_ids = torch.randint(0, VOCAB, (BATCH, SEQ))
    take_step(model, optimizer, token_ids)
    ledger = meter_step(model, optimizer, token_ids)
    growth = profiled_growth_bytes(lambda: take_step(model, optimizer, token_ids))
    unseen = growth - (ledger.peak_bytes - sum(ledger.at_start.values()))
    allowed = KERNEL_SCRATCH_BYTES
    if checkpointing:
        allowed += RNG_STATE_BYTES * model.config.num_hidden_layers
    if attention == "sdpa" and not checkpointing:
        allowed = 12  # nothing but the scalars of AdamW, if its step is the peak
    assert 0 <= unseen <= allowed


def test_the_meter_changes_nothing() -> None:
    token_ids = torch.randint(0, VOCAB, (BATCH, SEQ))
    plain, metered = make_llama(), make_llama()
    take_step(plain, InHook(plain, update=True), token_ids)
    optimizer = InHook(metered, update=True)
    meter_step(metered, optimizer, token_ids)
    pairs = zip(plain.parameters(), metered.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    hooks = [len(p._post_accumulate_grad_hooks) for p in metered.parameters()]
    assert set(hooks) == {1}
    assert "resize_" not in torch.UntypedStorage.__dict__


def test_two_backwards_over_one_forward() -> None:
    model = make_llama(checkpointing=True)
    optimizer = InHook(model, update=False)
    token_ids = torch.randint(0, VOCAB, (BATCH, SEQ))
    with StepMeter(model, inputs=token_ids) as meter:
        meter.phase("forward")
        loss = model(input_ids=token_ids, labels=token_ids).loss
        meter.phase("backward")
        loss.backward(retain_graph=True)
        loss.backward()
        meter.phase("step")
        optimizer.step()
    ledger = meter.ledger()
    assert ledger.gradients_peak_bytes == max(parameter_bytes(model))
    created = [event for event in ledger.timeline if event.event == "gradient_created"]
    assert len(created) == 2 * len(parameter_bytes(model))
    assert most_gradients_alive(ledger) == 1


def test_a_tied_weight_holds_its_gradient_through_the_backward() -> None:
    model = make_llama(tied=True)
    ledger = meter_method("lomo", model)
    tied_bytes = model.lm_head.weight.nbytes
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert ledger.sum_of_terms["parameters_bytes"] == sum(parameter_bytes(model))
    # The head's share waits for the embedding's, and torch adds them up in a third tensor.
    events = [event for event in ledger.timeline if event.parameter is not None]
    assert events[0].event == "gradient_created"
    assert events[0].parameter == events[-1].parameter == "model.embed_tokens.weight"
    assert ledger.gradients_peak_bytes == 3 * tied_bytes
    assert ledger.timeline[-1].gradients_bytes == 0


def test_figure_1_lomo_stays_low_where_sgd_climbs() -> None:
    lomo = meter_method("lomo", make_llama()).timeline
    sgd = meter_method("sgd", make_llama()).timeline
    climb = [event.gradients_bytes for event in sgd if event.event == "gradient_created"]
    assert climb == sorted(climb)
    after = [event.gradients_bytes for event in lomo if event.event == "gradient_released"]
    assert set(after) == {0}
