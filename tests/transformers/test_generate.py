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


def generate(this: Case, prompt: Prompt, **options: Any) -> Any:
    return this.pruned.generate(**this.inputs(prompt), **{**GREEDY, **options})


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
    return Prompt(inputs, prompt.keep, selected)


def greedy_by_hand(this: Case, full: Prompt, pruned: Prompt, steps: int = NEW) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (batch, steps) and logits (batch, steps, vocabulary): the oracle asked anew for each token."""
    tokens, logits = [], []
    lengths = pruned.inputs["attention_mask"].sum(1)
    for step in range(steps):
        ends = (lengths + step).cumsum(0) - 1
        last = this.right(full, pruned)[ends]
        choice = last.clone()
        choice[:, GREEDY["suppress_tokens"]] = -torch.inf
        tokens.append(choice.argmax(-1, keepdim=True))
        logits.append(last)
        full, pruned = extended(full, tokens[-1]), extended(pruned, tokens[-1])
    return torch.cat(tokens, 1), torch.stack(logits, 1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_greedy_is_a_loop_over_the_oracle(family_name: str, attention: str) -> None:
    this = case(family_name, attention)
    full, pruned = this.prompts(ROWS if this.tiny.pads else ONE)
    tokens, logits = greedy_by_hand(this, full, pruned)
    got = generate(this, pruned)
    assert torch.equal(answers(pruned, got.sequences), tokens)
    assert difference(torch.stack(got.logits, 1), logits) < this.limit(full)


def test_a_widened_forward_alone_would_be_wrong() -> None:
    """Why generate() is overridden: it encodes images before it calls forward."""
    this = case("qwen3_vl")
    full, pruned = this.prompts(ROWS)
    _, logits = greedy_by_hand(this, full, pruned, steps=1)
    inputs = this.inputs(pruned)
    kept = inputs.pop("image_kept").split([len(mask) for mask in pruned.keep])
    inputs["image_grid_thw"] = torch.tensor([[1, 2, 2 * int(mask.sum())] for mask in kept])
    stock = this.stock.generate(**inputs, **{**GREEDY, "max_new_tokens": 1})
    assert difference(stock.logits[0], logits[:, 0]) > 1
    assert difference(generate(this, pruned, max_new_tokens=1).logits[0], logits[:, 0]) < this.limit(full)


def test_ids_as_the_first_argument() -> None:
    this = case("qwen3_vl")
    _, pruned = this.prompts(ROWS)
    inputs = this.inputs(pruned)
    ids = inputs.pop("input_ids")
    positional = this.pruned.generate(ids, **inputs, **GREEDY)
    assert torch.equal(positional.sequences, generate(this, pruned).sequences)


def test_nothing_dropped_generates_as_stock(family_name: str) -> None:
    this = case(family_name)
    full, pruned = this.prompts(ONE, share=1.0)
    stock = this.stock.generate(**this.inputs(full), **GREEDY)
    got = generate(this, pruned)
    assert torch.equal(got.sequences, stock.sequences)
    assert torch.equal(torch.stack(got.logits), torch.stack(stock.logits))


def test_text_alone_generates_as_stock(family_name: str) -> None:
    this = case(family_name)
    full, pruned = this.prompts([[5, 6, 7, 8, 9]])
    for prompt in (full, pruned):
        prompt.inputs.pop("mm_token_type_ids")
    stock = this.stock.generate(**this.inputs(full), **GREEDY)
    assert torch.equal(generate(this, pruned).sequences, stock.sequences)


def test_calls_do_not_disturb_each_other(family_name: str) -> None:
    this = case(family_name)
    _, first = this.prompts(ROWS)
    _, other = this.prompts([[9, (4, 8), 8, 8], [3, (8, 12), 4, 5, 6, 7, 8]], seed=5)
    alone = generate(this, first)
    generate(this, other)
    again = generate(this, first)
    assert torch.equal(torch.stack(alone.logits), torch.stack(again.logits))


def test_without_a_cache(family_name: str) -> None:
    this = case(family_name)
    if this.tiny.token_types:
        pytest.skip("stock generate() does not lengthen moe_mm_token_type_ids without a cache")
    full, pruned = this.prompts(ONE)
    cached, uncached = generate(this, pruned), generate(this, pruned, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    assert difference(torch.stack(cached.logits), torch.stack(uncached.logits)) < this.limit(full)


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
    this = case(family_name)
    full, pruned = this.prompts(ONE * 2)
    options = {**GREEDY, "max_new_tokens": 3, "output_logits": False, **options}
    for _ in range(2):
        right_inputs = this.right_inputs(full, pruned)
        torch.manual_seed(7)
        right = this.stock.generate(**right_inputs, **options)
        torch.manual_seed(7)
        got = this.pruned.generate(**this.inputs(pruned), **options)
        assert torch.equal(got.sequences, right.sequences)


def test_assisted_decoding(family_name: str) -> None:
    this = case(family_name)
    _, pruned = this.prompts(ONE)
    options = {"output_logits": False}
    try:
        this.stock.generate(
            **this.inputs(this.prompts([[5, 6, 7, 6, 7]])[0]), **{**GREEDY, **options}, prompt_lookup_num_tokens=2
        )
    except (ValueError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"the stock model cannot: {str(error)[:80]}")
    plain = generate(this, pruned, **options)
    looked_up = generate(this, pruned, **options, prompt_lookup_num_tokens=2)
    assert torch.equal(plain.sequences, looked_up.sequences)


def test_assistant_model() -> None:
    """A second model drafts; it gets the features and positions of the pruned prompt."""
    this = case("qwen3_vl")
    _, pruned = this.prompts(ONE)
    plain = generate(this, pruned, output_logits=False)
    drafted = generate(this, pruned, output_logits=False, assistant_model=copy.deepcopy(this.stock))
    assert torch.equal(plain.sequences, drafted.sequences)


def test_chunked_prefill(family_name: str) -> None:
    """Chunks end within an image."""
    if Version("5.23") > INSTALLED:
        pytest.skip("before transformers 5.23, stock generate() drops all images when it prefills in chunks")
    this = case(family_name)
    full, pruned = this.prompts(ONE)
    whole, chunks = generate(this, pruned), generate(this, pruned, prefill_chunk_size=4)
    assert torch.equal(whole.sequences, chunks.sequences)
    assert difference(torch.stack(whole.logits), torch.stack(chunks.logits)) < this.limit(full)


class Conversation:
    """Two turns, a new image in each; the second goes on from the cache of the first."""

    def __init__(self, this: Case, second: list[Any]) -> None:
        if this.tiny.token_types and Version("5.23") > INSTALLED:
            pytest.skip("before transformers 5.23, stock generate() cuts moe_mm_token_type_ids wrongly")
        # Equally long, so that no padding comes to stand between the turns.
        opening = [[5, 6, (8, 12), 7, 8], [9, 10, (12, 8), 7, 8]]
        _, self.first = this.prompts(opening)
        kept = [int(mask.sum()) for mask in self.first.keep]
        for row, missing in zip(opening, (max(kept) - count for count in kept), strict=True):
            row += [20] * missing
        _, self.first = this.prompts(opening)
        self.turn = generate(this, self.first, max_new_tokens=3)
        said = answers(self.first, self.turn.sequences).tolist()
        rows = [row + words + second for row, words in zip(opening, said, strict=True)]
        full, self.pruned = this.prompts(rows)
        self.tokens, self.logits = greedy_by_hand(this, full, self.pruned)
        self.limit = this.limit(full)
        self.cached = self.turn.past_key_values.get_seq_length()

    def check(self, got: Any) -> None:
        assert torch.equal(got.sequences[:, -NEW:], self.tokens)
        assert difference(torch.stack(got.logits, 1), self.logits) < self.limit


def new_images_only(prompt: Prompt, images: int) -> dict[str, torch.Tensor]:
    """The arguments of `prompt` with the pixels of the last image of each row alone."""
    inputs = dict(prompt.inputs)
    chosen = [i for i in range(len(prompt.keep)) if i % images == images - 1]
    patches = inputs["pixel_values"].split([4 * int(mask.sum()) for mask in prompt.keep])
    inputs["pixel_values"] = torch.cat([patches[i] for i in chosen])
    inputs["image_kept"] = torch.cat([prompt.keep[i] for i in chosen])
    for name in ("image_grid_thw", "image_merge_sizes"):
        if name in inputs:
            inputs[name] = inputs[name][chosen]
    return inputs


@pytest.mark.parametrize("given", ["everything", "all tokens and the new image", "what is new"])
def test_second_turn_with_a_new_image(family_name: str, given: str) -> None:
    this = case(family_name)
    talk = Conversation(this, [11, (4, 8), 12, 13])
    inputs = dict(talk.pruned.inputs) if given == "everything" else new_images_only(talk.pruned, 2)
    if given == "what is new":
        for name in ("input_ids", "mm_token_type_ids"):
            inputs[name] = inputs[name][:, talk.cached :]
    arguments = this.inputs(Prompt(inputs))
    talk.check(this.pruned.generate(**arguments, past_key_values=talk.turn.past_key_values, **GREEDY))


@pytest.mark.parametrize("images", [True, False], ids=["image again", "text alone"])
def test_second_turn_of_text(family_name: str, images: bool) -> None:
    this = case(family_name)
    talk = Conversation(this, [11, 12, 13])
    inputs = dict(talk.pruned.inputs)
    if not images:
        for name in ("pixel_values", "image_kept", "image_grid_thw", "image_merge_sizes", "mm_token_type_ids"):
            inputs.pop(name, None)
    arguments = this.inputs(Prompt(inputs))
    talk.check(this.pruned.generate(**arguments, past_key_values=talk.turn.past_key_values, **GREEDY))


@pytest.mark.parametrize("given", ["everything", "what is new", "text alone"])
def test_second_turn_after_another_prompt(family_name: str, given: str) -> None:
    """Stock models forget where a cache goes on once they have served another prompt."""
    this = case(family_name)
    if not this.tiny.pads:
        pytest.skip("stock generate() gives something else with padding, pruned or not")
    talk = Conversation(this, [11, 12, 13] if given == "text alone" else [11, (4, 8), 12, 13])
    generate(this, this.prompts([[5, (8, 8), 6, 7], [8, 9]], seed=9)[1], max_new_tokens=2)
    inputs = dict(talk.pruned.inputs) if given == "everything" else new_images_only(talk.pruned, 2)
    if given == "text alone":
        for name in ("pixel_values", "image_kept", "image_grid_thw", "image_merge_sizes", "mm_token_type_ids"):
            inputs.pop(name, None)
    if given == "what is new":
        for name in ("input_ids", "mm_token_type_ids"):
            inputs[name] = inputs[name][:, talk.cached :]
    arguments = this.inputs(Prompt(inputs))
    talk.check(this.pruned.generate(**arguments, past_key_values=talk.turn.past_key_values, **GREEDY))


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("image", [(4, 8), (12, 16)])
def test_new_part_without_a_mask_over_the_cache_is_refused(family_name: str, mask: bool, image: tuple) -> None:
    """generate() would take it for the whole conversation; also where it is longer than the cache."""
    this = case(family_name)
    _, first = this.prompts([[5, 6, (4, 8), 7, 8]])
    turn = generate(this, first, max_new_tokens=2)
    _, new = this.prompts([[11, image, 12]], seed=4)
    inputs = this.inputs(new)
    if not mask:
        inputs.pop("attention_mask")
    with pytest.raises(ValueError, match=r"input_ids do not begin with the \d+ tokens that past_key_values hold"):
        this.pruned.generate(**inputs, past_key_values=turn.past_key_values, **GREEDY)


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v", "qwen2_5_omni_thinker"])
def test_a_turn_asked_twice_on_copies_of_a_cache(name: str) -> None:
    this = case(name)
    talk = Conversation(this, [11, (4, 8), 12, 13])
    inputs = new_images_only(talk.pruned, 2)
    for key in ("input_ids", "mm_token_type_ids"):
        inputs[key] = inputs[key][:, talk.cached :]
    for _ in range(2):
        cache = copy.deepcopy(talk.turn.past_key_values)
        talk.check(this.pruned.generate(**this.inputs(Prompt(inputs)), past_key_values=cache, **GREEDY))


@pytest.mark.parametrize("name", ["qwen3_vl", "glm46v", "exaone4_5"])
def test_four_turns_of_what_is_new(name: str) -> None:
    """Each turn brings an image."""
    this = case(name)
    row: list[Any] = [5, 6, (8, 12), 7, 8]
    full, pruned = this.prompts([row])
    inputs, cache = dict(pruned.inputs), None
    for turn in range(4):
        options = {**GREEDY, "max_new_tokens": 2}
        got = this.pruned.generate(**this.inputs(Prompt(inputs)), past_key_values=cache, **options)
        tokens, logits = greedy_by_hand(this, full, pruned, steps=2)
        assert torch.equal(got.sequences[:, -2:], tokens)
        assert difference(torch.stack(got.logits, 1), logits) < this.limit(full)
        cache, row = got.past_key_values, [*row, *tokens[0].tolist(), 20 + turn, (4, 2 * turn + 4), 30]
        full, pruned = this.prompts([row])
        inputs = new_images_only(pruned, turn + 2)
        for key in ("input_ids", "mm_token_type_ids"):
            inputs[key] = inputs[key][:, cache.get_seq_length() :]


def test_own_positions_and_a_decoding_loop() -> None:
    """Positions that the caller gives hold for their call; what follows goes on from the prompt all the same."""
    this = case("qwen3_vl")
    full, pruned = this.prompts(ONE)
    generate(this, this.prompts(ROWS, seed=8)[1])
    tokens, logits = greedy_by_hand(this, full, pruned, steps=2)
    positions = this.right_inputs(full, pruned)["position_ids"]
    with torch.no_grad():
        first = this.pruned(**this.inputs(pruned), position_ids=positions, use_cache=True)
        second = this.pruned(input_ids=tokens[:, :1], past_key_values=first.past_key_values)
    assert difference(first.logits[:, -1], logits[:, 0]) < this.limit(full)
    assert difference(second.logits[:, -1], logits[:, 1]) < this.limit(full)
