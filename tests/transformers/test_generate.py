"""generate() of an enabled model, in every family and in the ways that people call it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version

from tests.support.cases import Case, case
from tests.support.prompts import ROWS, Prompt
from tests.support.rounding import difference
from tests.support.tiny_models import IMAGE, VIDEO

INSTALLED = Version(transformers.__version__)
NEW = 5
# Placeholders in an answer would ask for pixels that nobody has.
GREEDY: dict[str, Any] = {
    "max_new_tokens": NEW,
    "do_sample": False,
    "suppress_tokens": list(range(IMAGE, VIDEO + 8)),
    "output_logits": True,
    "return_dict_in_generate": True,
}
ONE = ROWS[:1]


def generate(model_case: Case, prompt: Prompt, **options: Any) -> Any:
    return model_case.pruned.generate(**model_case.inputs(prompt), **{**GREEDY, **options})


def answers(prompt: Prompt, sequences: torch.Tensor) -> torch.Tensor:
    return sequences[:, prompt.inputs["input_ids"].shape[1] :]


def extended(prompt: Prompt, tokens: torch.Tensor) -> Prompt:
    """The prompt with text tokens (batch, n) behind it; rows are padded on the left."""
    inputs, rows, n = dict(prompt.inputs), *tokens.shape
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(rows, n, dtype=torch.long)], 1)
    for name in ("mm_token_type_ids", "moe_mm_token_type_ids"):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.zeros(rows, n, dtype=torch.int)], 1)
    selected = prompt.selected
    if selected is not None:
        selected = torch.cat([selected, torch.ones(rows, n, dtype=torch.bool)], 1)
    return Prompt(inputs, prompt.keep, selected, prompt.maps)


def greedy_by_hand(
    model_case: Case, full: Prompt, pruned: Prompt, steps: int = NEW
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (batch, steps) and logits (batch, steps, vocabulary): the oracle asked anew for each token."""
    tokens, logits = [], []
    lengths = pruned.inputs["attention_mask"].sum(1)
    for step in range(steps):
        ends = (lengths + step).cumsum(0) - 1
        last = model_case.expected(full, pruned)[ends]
        choice = last.clone()
        choice[:, GREEDY["suppress_tokens"]] = -torch.inf
        tokens.append(choice.argmax(-1, keepdim=True))
        logits.append(last)
        full, pruned = extended(full, tokens[-1]), extended(pruned, tokens[-1])
    return torch.cat(tokens, 1), torch.stack(logits, 1)


@pytest.mark.parametrize(("attention", "restore"), [("eager", 0), ("sdpa", 0), ("eager", 0.5)])
def test_greedy_is_a_loop_over_the_oracle(family_name: str, attention: str, restore: float) -> None:
    model_case = case(family_name, attention)
    full, pruned = model_case.prompts(ROWS if model_case.tiny.pads else ONE, restore=restore)
    tokens, logits = greedy_by_hand(model_case, full, pruned)
    actual = generate(model_case, pruned)
    assert torch.equal(answers(pruned, actual.sequences), tokens)
    assert difference(torch.stack(actual.logits, 1), logits) < model_case.limit(full)


def test_a_widened_forward_alone_would_be_wrong() -> None:
    """Why generate() is overridden: it encodes images before it calls forward."""
    model_case = case("qwen3_vl")
    full, pruned = model_case.prompts(ROWS)
    _, logits = greedy_by_hand(model_case, full, pruned, steps=1)
    inputs = model_case.inputs(pruned)
    kept = pruned.keep
    del inputs["image_map"]
    inputs["image_grid_thw"] = torch.tensor([[1, 2, 2 * int(mask.sum())] for mask in kept])
    stock = model_case.stock.generate(**inputs, **{**GREEDY, "max_new_tokens": 1})
    assert difference(stock.logits[0], logits[:, 0]) > 1
    assert difference(generate(model_case, pruned, max_new_tokens=1).logits[0], logits[:, 0]) < model_case.limit(full)


def test_ids_as_the_first_argument() -> None:
    model_case = case("qwen3_vl")
    _, pruned = model_case.prompts(ROWS)
    inputs = model_case.inputs(pruned)
    ids = inputs.pop("input_ids")
    positional = model_case.pruned.generate(ids, **inputs, **GREEDY)
    assert torch.equal(positional.sequences, generate(model_case, pruned).sequences)


def test_nothing_dropped_generates_as_stock(family_name: str) -> None:
    model_case = case(family_name)
    full, pruned = model_case.prompts(ONE, share=1.0)
    stock = model_case.stock.generate(**model_case.inputs(full), **GREEDY)
    actual = generate(model_case, pruned)
    assert torch.equal(actual.sequences, stock.sequences)
    assert torch.equal(torch.stack(actual.logits), torch.stack(stock.logits))


def test_text_alone_generates_as_stock(family_name: str) -> None:
    model_case = case(family_name)
    full, pruned = model_case.prompts([[5, 6, 7, 8, 9]])
    for prompt in (full, pruned):
        prompt.inputs.pop("mm_token_type_ids")
    stock = model_case.stock.generate(**model_case.inputs(full), **GREEDY)
    assert torch.equal(generate(model_case, pruned).sequences, stock.sequences)


def test_calls_do_not_disturb_each_other(family_name: str) -> None:
    model_case = case(family_name)
    _, first = model_case.prompts(ROWS)
    _, other = model_case.prompts([[9, (4, 8), 8, 8], [3, (8, 12), 4, 5, 6, 7, 8]], seed=5)
    alone = generate(model_case, first)
    generate(model_case, other)
    again = generate(model_case, first)
    assert torch.equal(torch.stack(alone.logits), torch.stack(again.logits))


def test_without_a_cache(family_name: str) -> None:
    model_case = case(family_name)
    if model_case.tiny.token_types:
        pytest.skip("stock generate() does not lengthen moe_mm_token_type_ids without a cache")
    full, pruned = model_case.prompts(ONE)
    cached, uncached = generate(model_case, pruned), generate(model_case, pruned, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    assert difference(torch.stack(cached.logits), torch.stack(uncached.logits)) < model_case.limit(full)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "top_k": 5, "temperature": 0.7},
    ],
    ids=["beams", "beams returned", "samples returned", "sampling"],
)
def test_search_and_sampling(family_name: str, options: dict) -> None:
    """As the stock model does with the oracle's features and positions, twice in a row."""
    model_case = case(family_name)
    full, pruned = model_case.prompts(ONE * 2)
    options = {**GREEDY, "max_new_tokens": 3, "output_logits": False, **options}
    for _ in range(2):
        expected_inputs = model_case.expected_inputs(full, pruned)
        torch.manual_seed(7)
        expected = model_case.stock.generate(**expected_inputs, **options)
        torch.manual_seed(7)
        actual = model_case.pruned.generate(**model_case.inputs(pruned), **options)
        assert torch.equal(actual.sequences, expected.sequences)


def test_assisted_decoding(family_name: str) -> None:
    model_case = case(family_name)
    _, pruned = model_case.prompts(ONE, restore=0.3)
    options = {"output_logits": False}
    try:
        model_case.stock.generate(
            **model_case.inputs(model_case.prompts([[5, 6, 7, 6, 7]])[0]),
            **{**GREEDY, **options},
            prompt_lookup_num_tokens=2,
        )
    except (ValueError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"the stock model cannot: {str(error)[:80]}")
    plain = generate(model_case, pruned, **options)
    looked_up = generate(model_case, pruned, **options, prompt_lookup_num_tokens=2)
    assert torch.equal(plain.sequences, looked_up.sequences)


def test_assistant_model() -> None:
    """A second model drafts; it gets the features and positions of the pruned prompt."""
    model_case = case("qwen3_vl")
    _, pruned = model_case.prompts(ONE, restore=0.3)
    plain = generate(model_case, pruned, output_logits=False)
    drafted = generate(model_case, pruned, output_logits=False, assistant_model=copy.deepcopy(model_case.stock))
    assert torch.equal(plain.sequences, drafted.sequences)


def test_chunked_prefill(family_name: str) -> None:
    """Chunks end within an image."""
    if Version("5.23") > INSTALLED:
        pytest.skip("before transformers 5.23, stock generate() drops all images when it prefills in chunks")
    model_case = case(family_name)
    full, pruned = model_case.prompts(ONE)
    whole, chunks = generate(model_case, pruned), generate(model_case, pruned, prefill_chunk_size=4)
    assert torch.equal(whole.sequences, chunks.sequences)
    assert difference(torch.stack(whole.logits), torch.stack(chunks.logits)) < model_case.limit(full)


class Conversation:
    """Two turns, a new image in each, with copies; the second goes on from the cache of the first."""

    def __init__(self, model_case: Case, second: list[Any]) -> None:
        if model_case.tiny.token_types and Version("5.23") > INSTALLED:
            pytest.skip("before transformers 5.23, stock generate() cuts moe_mm_token_type_ids wrongly")
        # Equally long, so that no padding comes to stand between the turns.
        opening = [[5, 6, (8, 12), 7, 8], [9, 10, (12, 8), 7, 8]]
        # This sparse attention takes the keys with the best scores, and copies make ties that rounding decides.
        restore = 0 if model_case.family.name == "glm5_next" else 0.3
        _, self.first = model_case.prompts(opening, restore=restore)
        tokens = [int((values >= 0).sum()) for values in self.first.maps]
        for row, missing in zip(opening, (max(tokens) - count for count in tokens), strict=True):
            row += [20] * missing
        _, self.first = model_case.prompts(opening, restore=restore)
        self.turn = generate(model_case, self.first, max_new_tokens=3)
        said = answers(self.first, self.turn.sequences).tolist()
        rows = [row + words + second for row, words in zip(opening, said, strict=True)]
        full, self.pruned = model_case.prompts(rows, restore=restore)
        self.tokens, self.logits = greedy_by_hand(model_case, full, self.pruned)
        self.limit = model_case.limit(full)
        self.cached = self.turn.past_key_values.get_seq_length()

    def check(self, actual: Any) -> None:
        assert torch.equal(actual.sequences[:, -NEW:], self.tokens)
        assert difference(torch.stack(actual.logits, 1), self.logits) < self.limit


def new_images_only(prompt: Prompt, images: int) -> dict[str, torch.Tensor]:
    """The arguments of `prompt` with the pixels of the last image of each row alone."""
    inputs = dict(prompt.inputs)
    chosen = [i for i in range(len(prompt.keep)) if i % images == images - 1]
    patches = inputs["pixel_values"].split([4 * int(mask.sum()) for mask in prompt.keep])
    inputs["pixel_values"] = torch.cat([patches[i] for i in chosen])
    inputs["image_map"] = torch.cat([prompt.maps[i] for i in chosen])
    for name in ("image_grid_thw", "image_merge_sizes"):
        if name in inputs:
            inputs[name] = inputs[name][chosen]
    return inputs


@pytest.mark.parametrize("given", ["everything", "all tokens and the new image", "what is new"])
def test_second_turn_with_a_new_image(family_name: str, given: str) -> None:
    model_case = case(family_name)
    talk = Conversation(model_case, [11, (4, 8), 12, 13])
    inputs = dict(talk.pruned.inputs) if given == "everything" else new_images_only(talk.pruned, 2)
    if given == "what is new":
        for name in ("input_ids", "mm_token_type_ids"):
            inputs[name] = inputs[name][:, talk.cached :]
    arguments = model_case.inputs(Prompt(inputs))
    talk.check(model_case.pruned.generate(**arguments, past_key_values=talk.turn.past_key_values, **GREEDY))


@pytest.mark.parametrize("images", [True, False], ids=["image again", "text alone"])
def test_second_turn_of_text(family_name: str, images: bool) -> None:
    model_case = case(family_name)
    talk = Conversation(model_case, [11, 12, 13])
    inputs = dict(talk.pruned.inputs)
    if not images:
        for name in ("pixel_values", "image_map", "image_grid_thw", "image_merge_sizes", "mm_token_type_ids"):
            inputs.pop(name, None)
    arguments = model_case.inputs(Prompt(inputs))
    talk.check(model_case.pruned.generate(**arguments, past_key_values=talk.turn.past_key_values, **GREEDY))


@pytest.mark.parametrize("given", ["everything", "what is new", "text alone"])
def test_second_turn_after_another_prompt(family_name: str, given: str) -> None:
    """Stock models forget where a cache goes on once they have served another prompt."""
    model_case = case(family_name)
    if not model_case.tiny.pads:
        pytest.skip("stock generate() gives something else with padding, pruned or not")
    talk = Conversation(model_case, [11, 12, 13] if given == "text alone" else [11, (4, 8), 12, 13])
    generate(model_case, model_case.prompts([[5, (8, 8), 6, 7], [8, 9]], seed=9)[1], max_new_tokens=2)
    inputs = dict(talk.pruned.inputs) if given == "everything" else new_images_only(talk.pruned, 2)
    if given == "text alone":
        for name in ("pixel_values", "image_map", "image_grid_thw", "image_merge_sizes", "mm_token_type_ids"):
            inputs.pop(name, None)
    if given == "what is new":
        for name in ("input_ids", "mm_token_type_ids"):
            inputs[name] = inputs[name][:, talk.cached :]
    arguments = model_case.inputs(Prompt(inputs))
    talk.check(model_case.pruned.generate(**arguments, past_key_values=talk.turn.past_key_values, **GREEDY))


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("image", [(4, 8), (12, 16)])
def test_new_part_without_a_mask_over_the_cache_is_refused(family_name: str, mask: bool, image: tuple) -> None:
    """generate() would take it for the whole conversation; also where it is longer than the cache."""
    model_case = case(family_name)
    _, first = model_case.prompts([[5, 6, (4, 8), 7, 8]])
    turn = generate(model_case, first, max_new_tokens=2)
    _, new = model_case.prompts([[11, image, 12]], seed=4)
    inputs = model_case.inputs(new)
    if not mask:
        inputs.pop("attention_mask")
    with pytest.raises(ValueError, match=r"input_ids do not begin with the \d+ tokens that past_key_values hold"):
        model_case.pruned.generate(**inputs, past_key_values=turn.past_key_values, **GREEDY)


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v", "qwen2_5_omni_thinker"])
def test_a_turn_asked_twice_on_copies_of_a_cache(name: str) -> None:
    model_case = case(name)
    talk = Conversation(model_case, [11, (4, 8), 12, 13])
    inputs = new_images_only(talk.pruned, 2)
    for key in ("input_ids", "mm_token_type_ids"):
        inputs[key] = inputs[key][:, talk.cached :]
    for _ in range(2):
        cache = copy.deepcopy(talk.turn.past_key_values)
        talk.check(model_case.pruned.generate(**model_case.inputs(Prompt(inputs)), past_key_values=cache, **GREEDY))


@pytest.mark.parametrize("name", ["qwen3_vl", "glm46v", "exaone4_5"])
def test_four_turns_of_what_is_new(name: str) -> None:
    """Each turn brings an image."""
    model_case = case(name)
    row: list[Any] = [5, 6, (8, 12), 7, 8]
    full, pruned = model_case.prompts([row])
    inputs, cache = dict(pruned.inputs), None
    for turn in range(4):
        options = {**GREEDY, "max_new_tokens": 2}
        actual = model_case.pruned.generate(**model_case.inputs(Prompt(inputs)), past_key_values=cache, **options)
        tokens, logits = greedy_by_hand(model_case, full, pruned, steps=2)
        assert torch.equal(actual.sequences[:, -2:], tokens)
        assert difference(torch.stack(actual.logits, 1), logits) < model_case.limit(full)
        cache, row = actual.past_key_values, [*row, *tokens[0].tolist(), 20 + turn, (4, 2 * turn + 4), 30]
        full, pruned = model_case.prompts([row])
        inputs = new_images_only(pruned, turn + 2)
        for key in ("input_ids", "mm_token_type_ids"):
            inputs[key] = inputs[key][:, cache.get_seq_length() :]


def test_own_positions_and_a_decoding_loop() -> None:
    """Positions that the caller gives hold for their call; what follows goes on from the prompt all the same."""
    model_case = case("qwen3_vl")
    full, pruned = model_case.prompts(ONE)
    generate(model_case, model_case.prompts(ROWS, seed=8)[1])
    tokens, logits = greedy_by_hand(model_case, full, pruned, steps=2)
    positions = model_case.expected_inputs(full, pruned)["position_ids"]
    with torch.no_grad():
        first = model_case.pruned(**model_case.inputs(pruned), position_ids=positions, use_cache=True)
        second = model_case.pruned(input_ids=tokens[:, :1], past_key_values=first.past_key_values)
    assert difference(first.logits[:, -1], logits[:, 0]) < model_case.limit(full)
    assert difference(second.logits[:, -1], logits[:, 1]) < model_case.limit(full)
