"""Wrong use of switch.py, families.py and modeling.py is refused with a sentence that says what to do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import BertConfig, BertModel, CLIPImageProcessor, LlavaProcessor

from pixelprune import PruneConfig
from pixelprune.transformers import Family, disable, enable, families, kept, register, switch, unregister
from tests.support.cases import Case, case
from tests.support.checkpoints import model_and_processor, processor_of
from tests.support.prompts import ROWS
from tests.support.tiny_models import ALL, build


@pytest.fixture
def model_case() -> Case:
    return case("qwen3_vl")


def wrong(model_case: Case, **changes: Any) -> dict[str, Any]:
    """Good inputs of a pruned prompt, some of them replaced; None leaves one out."""
    _, pruned = model_case.prompts(ROWS)
    inputs = {**model_case.inputs(pruned), **changes}
    return {name: value for name, value in inputs.items() if value is not None}


def refused(model_case: Case, text: str, **changes: Any) -> None:
    for run in (model_case.pruned, model_case.pruned.generate):
        with pytest.raises(ValueError, match=text):
            run(**wrong(model_case, **changes))


def test_inputs_of_a_stock_processor(model_case: Case) -> None:
    refused(
        model_case,
        "pixel_values came without image_map, so they are not from a processor that prunes",
        image_map=None,
    )


def test_inputs_of_a_stock_processor_for_the_model_without_its_head(model_case: Case) -> None:
    with pytest.raises(ValueError, match="pixel_values came without image_map"):
        model_case.pruned.base_model(**wrong(model_case, image_map=None))


def test_pruned_inputs_for_a_stock_model(model_case: Case) -> None:
    with pytest.raises(ValueError, match="image_map"):
        model_case.stock.generate(**wrong(model_case), max_new_tokens=1)


def test_mask_of_another_length(model_case: Case) -> None:
    values = wrong(model_case)["image_map"]
    text = r"image_map must be a tensor of shape \(40,\), one whole number per block of .*, got torch.int32"
    refused(model_case, text + r" \(39,\)", image_map=values[:-1])
    refused(model_case, r"shape \(40,\).*got torch.float32", image_map=values.float())
    refused(model_case, r"shape \(40,\).*got torch.bool", image_map=values >= 0)
    refused(model_case, r"shape \(40,\).*got list", image_map=values.tolist())


def test_map_in_the_widest_type(model_case: Case) -> None:
    inputs = wrong(model_case)
    expected = model_case.pruned(**inputs).logits
    assert torch.equal(model_case.pruned(**{**inputs, "image_map": inputs["image_map"].long()}).logits, expected)


# Of images of 6 x 4, 2 x 4 and 4 x 2 blocks.
@pytest.mark.parametrize(
    ("place", "value", "text"),
    [
        (slice(24, 32), -1, "it must keep at least one block of each image, and keeps none of image 1"),
        (slice(32, 40), 8, "its values for image 2 must be from -1 to 7"),
        (3, -2, "its values for image 0 must be from -1 to 23"),
    ],
)
def test_map_that_is_not_valid(model_case: Case, place: Any, value: int, text: str) -> None:
    values = wrong(model_case)["image_map"].clone()
    values[place] = value
    refused(model_case, f"image_map is not valid: {text}; pass it as the processor returned it", image_map=values)


def test_copy_of_a_block_that_is_not_encoded(model_case: Case) -> None:
    values = wrong(model_case)["image_map"].clone()
    dropped = (values[:24] < 0).nonzero()[:2, 0].tolist()
    values[dropped[0]] = dropped[1]
    text = f"it has block {dropped[1]} of image 0 at block {dropped[0]}, but block {dropped[1]} is not one that"
    refused(model_case, text, image_map=values)


def test_pixels_of_another_call(model_case: Case) -> None:
    pixels = wrong(model_case)["pixel_values"]
    count = len(pixels)
    text = (
        f"pixel_values must hold the {count} patches of the {count // 4} blocks that image_map keeps, got {count - 4}"
    )
    refused(model_case, text, pixel_values=pixels[4:])


def test_placeholders_that_disagree(model_case: Case) -> None:
    inputs = wrong(model_case)
    full, _ = model_case.prompts(ROWS)
    changes = {name: full.inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    refused(model_case, r"input_ids hold 40 image placeholders \(id 100\), but image_map has \d+ tokens", **changes)
    cut = {name: inputs[name][:, :9] for name in changes}
    refused(model_case, "truncate none of it", **cut)


def test_rows_out_of_order(model_case: Case) -> None:
    inputs = wrong(model_case)
    flipped = {name: inputs[name].flip(0) for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    refused(model_case, "does not fit input_ids row by row", **flipped)


@pytest.mark.parametrize("name", ["pixel_values", "image_grid_thw", "input_ids"])
def test_left_out(model_case: Case, name: str) -> None:
    with pytest.raises(ValueError, match=f"image_map came without {name}"):
        model_case.pruned(**wrong(model_case, **{name: None}))


def test_embeddings_instead_of_ids(model_case: Case) -> None:
    embeddings = model_case.stock.get_input_embeddings()(wrong(model_case)["input_ids"])
    text = r"inputs_embeds cannot be pruned, .* let the processor keep everything \(pixelprune=False\)"
    refused(model_case, text, input_ids=None, inputs_embeds=embeddings)


def test_features_of_all_blocks_beside_a_mask_that_drops_some(model_case: Case) -> None:
    text = r"mm_encoder_outputs\['image'\] cannot be pruned, .* pass input_ids and pixel_values"
    refused(model_case, text, pixel_values=None, mm_encoder_outputs={"image": object()})


def test_model_that_reads_merge_sizes() -> None:
    video = case("video_llama_3")
    with pytest.raises(
        ValueError, match="image_merge_sizes is missing; models of video_llama_3 need it, so pass everything"
    ):
        video.pruned(**wrong(video, image_merge_sizes=None))


def test_mask_over_what_is_new_alone(model_case: Case) -> None:
    _, first = model_case.prompts([[5, 6, (4, 8), 7, 8]])
    with torch.no_grad():
        cache = model_case.pruned(**model_case.inputs(first), use_cache=True).past_key_values
    _, new = model_case.prompts([[11, (4, 8), 12]], seed=4)
    with pytest.raises(
        ValueError, match=r"attention_mask must have shape \(1, \d+\), one entry for each token of past"
    ):
        model_case.pruned(**model_case.inputs(new), past_key_values=cache)


def test_mask_of_another_kind(model_case: Case) -> None:
    mask = wrong(model_case)["attention_mask"]
    with pytest.raises(ValueError, match=r"attention_mask must have shape .* got \(2, 1, 1, \d+\)"):
        model_case.pruned(**wrong(model_case, attention_mask=mask[:, None, None]))


def test_attention_mask_that_hides_placeholders(model_case: Case) -> None:
    inputs = wrong(model_case)
    mask = inputs["attention_mask"].clone()
    row, column = (inputs["input_ids"] == model_case.stock.config.image_token_id).nonzero()[0].tolist()
    mask[row, column : column + 2] = 0
    refused(model_case, "attention_mask is 0 at 2 image placeholders, as if they were padding", attention_mask=mask)


def test_features_beside_pixels(model_case: Case) -> None:
    refused(model_case, "pixel_values came with mm_encoder_outputs", mm_encoder_outputs={"image": object()})


def test_video_that_is_in_the_cache(model_case: Case) -> None:
    _, pruned = model_case.prompts([[5, (8, 12), 6, (2, 4, 8), 7]])
    inputs = model_case.inputs(pruned)
    turn = model_case.pruned.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
    more = torch.cat([turn.sequences, torch.tensor([[11, 12]])], 1)
    types = torch.zeros_like(more)
    types[:, : inputs["input_ids"].shape[1]] = inputs["mm_token_type_ids"]
    again = {**inputs, "input_ids": more, "attention_mask": torch.ones_like(more), "mm_token_type_ids": types}
    with pytest.raises(ValueError, match="pixel_values_videos came again for videos that past_key_values hold"):
        model_case.pruned.generate(**again, past_key_values=turn.past_key_values, max_new_tokens=1)


def test_another_enabled_model_is_not_let_through(model_case: Case) -> None:
    """While one model generates, stock pixels are refused by every other."""
    other = case("qwen2_vl")
    full, _ = other.prompts(ROWS)
    _, pruned = model_case.prompts(ROWS)

    def call_the_other(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        with pytest.raises(ValueError, match="pixel_values came without image_map"):
            other.pruned(**other.inputs(full))
        return scores

    model_case.pruned.generate(**model_case.inputs(pruned), max_new_tokens=1, logits_processor=[call_the_other])


def test_prompt_learning() -> None:
    peft = pytest.importorskip("peft", reason="prompt learning needs peft")
    model = copy.deepcopy(case("qwen3_vl").stock)
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, num_layers=4, token_dim=64, num_attention_heads=4
    )
    with pytest.raises(ValueError, match=r"prompt-learning adapter .* use an adapter of weights such as LoRA"):
        enable(peft.get_peft_model(model, config))


def test_class_made_of_the_pruned_one(model_case: Case) -> None:
    model = copy.deepcopy(model_case.pruned)
    model.__class__ = type("Sharded" + type(model).__name__, (type(model),), {})
    for change in (enable, disable):
        with pytest.raises(ValueError, match="got another class after it was enabled"):
            change(model)


def test_geometry_that_was_changed_after_enabling() -> None:
    processor = enable(processor=processor_of("qwen3_vl"))
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    for name, value in (("patch_size", 16), ("merge_size", 1), ("temporal_patch_size", 4)):
        for options in ({}, {"pixelprune": False}):
            with pytest.raises(ValueError, match=f"{name} must be .*, as when pruning was enabled, got {value}"):
                processor.image_processor(picture, **{name: value}, **options)
        changed = copy.deepcopy(processor)
        setattr(changed.image_processor, name, value)
        with pytest.raises(ValueError, match=f"{name} must be"):
            changed.image_processor(picture)


def test_moving_images(model_case: Case) -> None:
    grids = wrong(model_case)["image_grid_thw"].clone()
    grids[0] = torch.tensor([2, 4, 12])
    refused(model_case, r"one frame per image, got \[2, 1, 1\]; pass moving images as videos", image_grid_thw=grids)


def test_cache_that_ends_within_an_image(model_case: Case) -> None:
    _, pruned = model_case.prompts(ROWS[:1])
    inputs = model_case.inputs(pruned)
    cache = model_case.pruned.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True).past_key_values
    cache.crop(-6)
    with pytest.raises(ValueError, match="past_key_values end within an image"):
        model_case.pruned.generate(**inputs, past_key_values=cache, max_new_tokens=1)


def test_unknown_family() -> None:
    tiny = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    with pytest.raises(ValueError, match="model_type 'bert', which pixelprune does not know") as error:
        enable(tiny)
    for name in families.names():
        assert name in str(error.value)
    assert "pixelprune.transformers.Family" in str(error.value)


def test_whole_omni_model_points_at_the_thinker() -> None:
    class Omni(nn.Module):
        config = type("Config", (), {"model_type": "qwen2_5_omni"})
        thinker = None

    with pytest.raises(ValueError, match=r"enable the part that reads images, model\.thinker"):
        families.family_of(Omni())


def test_family_of_ones_own() -> None:
    model = build(ALL["qwen3_vl"])
    model.config.model_type = "my_vl"
    with pytest.raises(ValueError, match="my_vl"):
        enable(model)
    register(Family("my_vl"))
    try:
        assert enable(model) is model
    finally:
        unregister("my_vl")


def test_wrong_things() -> None:
    processor = processor_of("qwen3_vl")
    with pytest.raises(ValueError, match="give a model, a processor, or both; got neither"):
        enable()
    with pytest.raises(ValueError, match=r"model is a processor; to use one without a model, write processor=\.\.\."):
        enable(processor)
    with pytest.raises(ValueError, match="processor must be the processor of a vision-language model, got str"):
        enable(processor="qwen")
    with pytest.raises(ValueError, match="model must be a model of transformers, got Linear"):
        enable(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="give either config or options, not both; got config and threshold"):
        enable(processor=processor, config=PruneConfig(), threshold=0.1)
    with pytest.raises(ValueError, match="config must be a PruneConfig"):
        enable(processor=processor, config=0.1)
    with pytest.raises(ValueError, match="unknown option 'tau'"):
        enable(processor=processor, tau=0.1)
    with pytest.raises(ValueError, match="neither"):
        disable()
    assert type(processor) is type(processor_of("qwen3_vl"))


def test_old_transformers() -> None:
    with pytest.raises(
        RuntimeError, match=r"needs transformers 5\.18\.0 or newer, this is 5\.17\.0.*upgrade transformers"
    ):
        switch._check_version("5.17.0")
    switch._check_version("5.18.0")


@pytest.mark.parametrize(
    ("versions", "text"),
    [
        ({"since": "99.0"}, r"can be pruned from transformers 99\.0 on"),
        (
            {"since": "5.0", "until": transformers.__version__},
            r"can be pruned only before transformers .*use an older transformers",
        ),
    ],
)
def test_family_of_other_versions(versions: dict[str, str], text: str) -> None:
    model = copy.deepcopy(case("qwen3_vl").stock)
    model.config.model_type = "my_vl"
    register(Family("my_vl", **versions))
    try:
        with pytest.raises(RuntimeError, match=text):
            enable(model)
    finally:
        unregister("my_vl")


@pytest.mark.parametrize(
    ("options", "text"), [({"patch_size": 14}, "patch_size is 14"), ({"merge_size": 1}, "merge_size is 1")]
)
def test_processor_of_another_model(options: dict, text: str) -> None:
    model, _ = model_and_processor("qwen3_vl")
    processor = processor_of("qwen3_vl", **{"patch_size": 4, **options})
    with pytest.raises(ValueError, match=f"processor does not belong to model: its {text}"):
        enable(model, processor)
    # Nothing was changed.
    assert not hasattr(model, "_pixelprune_base")
    assert not hasattr(processor, "_pixelprune_base")


def test_image_processor_that_cannot_be_pruned() -> None:
    tokenizer = processor_of("qwen3_vl").tokenizer
    processor = LlavaProcessor(CLIPImageProcessor(), tokenizer, patch_size=14)
    with pytest.raises(
        ValueError, match="image processor that cannot be pruned, CLIPImageProcessor: it has no patch_size"
    ):
        enable(processor=processor)


def test_encoder_input_that_is_not_known(model_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelprune.transformers import encoding

    stock = encoding.precompute_export_inputs

    def newer(tower: Any, values: dict[str, Any]) -> None:
        stock(tower, values)
        values["new_index"] = torch.zeros(3)

    monkeypatch.setattr(encoding, "precompute_export_inputs", newer)
    with pytest.raises(RuntimeError, match="asks for new_index, which this version of pixelprune cannot prune"):
        model_case.pruned(**wrong(model_case))


def test_kept_of_stock_inputs() -> None:
    with pytest.raises(ValueError, match="no image_map: they are not from a processor that prunes"):
        kept({"image_grid_thw": torch.tensor([[1, 4, 4]])})
    with pytest.raises(ValueError, match="image_map has 3 entries"):
        kept({"image_grid_thw": torch.tensor([[1, 4, 4], [1, 2, 2]]), "image_map": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="image_map has 6 entries"):
        kept({"image_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 4]]), "image_map": torch.ones(6, dtype=torch.bool)})
