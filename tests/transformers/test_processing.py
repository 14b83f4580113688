"""An enabled processor: stock values of the patches that are kept, and prompts to match."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from pixelprune import PruneConfig, select
from pixelprune.images.samples import photograph, sample_path
from pixelprune.transformers import disable, enable, families, kept
from tests.support.checkpoints import KITS, class_of, processor_of
from tests.support.prompts import patch_places
from tests.support.shared_folder import SHARED


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """A page and a screen at sizes that no patch divides."""
    page = Image.open(sample_path("page")).convert("RGB")
    screen = Image.open(sample_path("screen")).convert("RGB")
    return [page.resize((601, 803)), screen.resize((702, 405))]


@pytest.fixture(params=list(KITS))
def stock(request: pytest.FixtureRequest) -> Any:
    """The stock processor of each family."""
    try:
        processor = processor_of(request.param)
    except ModuleNotFoundError:
        pytest.skip(f"this transformers has no {request.param}")
    if request.param.endswith("omni_thinker") or request.param.endswith("moe_thinker"):
        _skip_without_seam(processor)
    processor.family = families.get(request.param)
    return processor


def _skip_without_seam(processor: Any) -> None:
    try:
        enable(processor=copy.deepcopy(processor))
    except ValueError as error:
        if "in another way" in str(error):
            pytest.skip("this transformers lets the processor write its image tokens itself, which enable refuses")
        raise


def call(processor: Any, images: list[Any], **options: Any) -> Any:
    """Rows of one image each, and one of text."""
    text = [f"read {processor.image_token} and say {i}" for i in range(len(images))]
    arguments = {"padding": True, "return_tensors": "pt", **options}
    return processor(text=[*text, "the quick fox"], images=[*([image] for image in images), []], **arguments)


def kept_rows(stock: Any, output: Any) -> torch.Tensor:
    """Bool, which patches of the stock output belong to kept blocks, by plain counting."""
    order, merge = stock.family.patch_order, stock.image_processor.merge_size
    rows, start = [], 0
    for _, h, w in output["image_grid_thw"].tolist():
        places = patch_places((h, w), merge, order)
        mask = torch.zeros(h * w, dtype=torch.bool)
        mask[places[output["image_map"][start : start + len(places)] >= 0].flatten()] = True
        rows.append(mask)
        start += len(places)
    assert start == len(output["image_map"])
    return torch.cat(rows)


def image_of(patches: torch.Tensor, grid: list[int], processor: Any) -> np.ndarray:
    """uint8 (H, W, 3), the image that uint8 patches were cut from."""
    _, h, w = grid
    p, m = processor.image_processor.patch_size, processor.image_processor.merge_size
    block = processor.family.patch_order == "block"
    if processor.family.name.startswith("muse"):  # frames before channels
        pixels = patches.reshape(len(patches), -1, 3, p, p)[:, 0]
    else:
        pixels = patches.reshape(len(patches), 3, -1, p, p)[:, :, 0]
    if block:
        pixels = pixels.reshape(h // m, w // m, m, m, 3, p, p).permute(0, 2, 5, 1, 3, 6, 4)
    else:
        pixels = pixels.reshape(h, w, 3, p, p).permute(0, 3, 1, 4, 2)
    return np.ascontiguousarray(pixels.reshape(h * p, w * p, 3).numpy())


@pytest.mark.parametrize("threshold", [0.0, 0.03])
def test_kept_patches_are_stock_bit_for_bit(stock: Any, pictures: list, threshold: float) -> None:
    expected = call(stock, pictures)
    raw = call(stock, pictures, do_rescale=False, do_normalize=False)
    actual = call(enable(processor=copy.deepcopy(stock), threshold=threshold), pictures)
    assert torch.equal(actual["image_grid_thw"], expected["image_grid_thw"])
    assert torch.equal(actual["pixel_values"], expected["pixel_values"][kept_rows(stock, actual)])
    assert actual["pixel_values"].dtype == expected["pixel_values"].dtype
    # What is kept is what select() keeps of the image that the model's own resize made.
    block, start, begin = stock.image_processor.patch_size * stock.image_processor.merge_size, 0, 0
    for grid in expected["image_grid_thw"].tolist():
        count, patches = grid[1] * grid[2], raw["pixel_values"]
        image = image_of(patches[begin : begin + count].to(torch.uint8), grid, stock)
        selection = select(image, PruneConfig(threshold), block=block)
        part = actual["image_map"][start : start + selection.total]
        assert np.array_equal(part.numpy(), np.where(selection.keep, selection.source, -1).ravel())
        assert 0 < selection.kept < selection.total
        start, begin = start + selection.total, begin + count


def test_prompts_are_shortened_and_nothing_else(stock: Any, pictures: list) -> None:
    expected = call(stock, pictures)
    actual = call(enable(processor=copy.deepcopy(stock)), pictures)
    assert set(actual) == {*expected, "image_map"}
    token = stock.tokenizer.convert_tokens_to_ids(stock.image_token)
    for row, image in enumerate([*kept(actual), None]):
        before = expected["input_ids"][row][expected["attention_mask"][row].bool()]
        after = actual["input_ids"][row][actual["attention_mask"][row].bool()]
        assert before[before != token].tolist() == after[after != token].tolist()
        assert int((before == token).sum()) == (image.total if image else 0)
        assert int((after == token).sum()) == (image.kept if image else 0)
        for name in ("mm_token_type_ids", "moe_mm_token_type_ids"):
            if name in actual:
                types = actual[name][row][actual["attention_mask"][row].bool()]
                assert types[after == token].tolist() == [1] * int((after == token).sum())


def test_nothing_to_drop_gives_the_stock_tensors(stock: Any) -> None:
    photo = Image.fromarray(photograph(448))
    expected, actual = call(stock, [photo]), call(enable(processor=copy.deepcopy(stock)), [photo])
    assert bool((actual["image_map"] >= 0).all())
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name


def test_switched_off_for_one_call(stock: Any, pictures: list) -> None:
    expected = call(stock, pictures)
    actual = call(enable(processor=copy.deepcopy(stock)), pictures, pixelprune=False)
    assert bool((actual["image_map"] >= 0).all())
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize("name", ["qwen2_vl", "paddleocr_vl", "glm46v", "video_llama_3", "ernie4_5_vl_moe"])
def test_pillow_backend(name: str, pictures: list) -> None:
    stock = processor_of(name)
    stock.image_processor = class_of(KITS[name].images + "Pil")()
    stock.family = families.get(name)
    assert stock.image_processor.backend == "pil"
    expected, actual = call(stock, pictures), call(enable(processor=copy.deepcopy(stock)), pictures)
    assert torch.equal(actual["pixel_values"], expected["pixel_values"][kept_rows(stock, actual)])
    assert not bool((actual["image_map"] >= 0).all())


@pytest.fixture
def qwen() -> Any:
    """The processor of Qwen3-VL, enabled, with the block size of its checkpoints."""
    return enable(processor=processor_of("qwen3_vl", patch_size=16))


def test_options_of_one_call(qwen: Any, pictures: list) -> None:
    def tokens(**options: Any) -> int:
        return int((call(qwen, pictures, **options)["image_map"] >= 0).sum())

    exact, bounded = tokens(), tokens(pixelprune={"threshold": 0.05})
    assert bounded < exact
    assert tokens(pixelprune=PruneConfig(threshold=0.05)) == bounded
    assert tokens(images_kwargs={"pixelprune": {"threshold": 0.05}}) == bounded
    assert tokens(pixelprune={"threshold": 0.05, "metric": "mae"}) < bounded
    assert tokens(pixelprune=True) == tokens(pixelprune=None) == tokens(pixelprune={}) == exact
    raster = tokens(pixelprune={"predictor": "raster"})
    assert raster > exact


def test_options_through_the_chat_template(qwen: Any, pictures: list) -> None:
    messages = [
        {"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "read"}]}
    ]

    def tokens(**options: Any) -> int:
        inputs = qwen.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, **options
        )
        count = int((inputs["input_ids"] == qwen.image_token_id).sum())
        assert count == int((inputs["image_map"] >= 0).sum())
        return count

    assert tokens(processor_kwargs={"pixelprune": {"threshold": 0.05}}) < tokens()
    assert tokens(processor_kwargs={"pixelprune": False}) == kept(call(qwen, pictures))[0].total


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"treshold": 0.1}, "unknown option 'treshold'; known options: threshold, metric"),
        ({"threshold": 5}, "threshold must be a number in .0, 1., got 5"),
        ("on", "pixelprune must be a dict of options, a PruneConfig, True or False, got 'on'"),
    ],
)
def test_refused_options(qwen: Any, pictures: list, asked: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(qwen, pictures, pixelprune=asked)


def test_budget(qwen: Any, pictures: list, caplog: pytest.LogCaptureFixture) -> None:
    most = call(qwen, pictures)
    budget = kept(most)[0].kept - 10
    with caplog.at_level(logging.WARNING, "pixelprune"):
        actual = kept(call(qwen, pictures, pixelprune={"max_tokens": budget}))
    assert actual[0].kept <= budget
    assert not caplog.records
    photo = Image.fromarray(photograph(448))
    with caplog.at_level(logging.WARNING, "pixelprune"):
        assert kept(call(qwen, [photo], pixelprune={"max_tokens": 10}))[0].kept > 10
    assert "above max_tokens 10" in caplog.text


@pytest.mark.parametrize(
    "kind", ["array", "tensor", "grey", "alpha", "transparent colour", "palette", "one bit", "16 bit", "path", "nested"]
)
def test_images_of_all_kinds(qwen: Any, pictures: list, kind: str, tmp_path: Path) -> None:
    page = pictures[0]
    pictures[1].save(tmp_path / "screen.png")
    transparent = page.copy()
    transparent.putalpha(Image.fromarray(np.tile(np.arange(601, dtype=np.uint16) % 256, (803, 1)).astype(np.uint8)))
    colour = page.copy()
    colour.info["transparency"] = page.getpixel((0, 0))
    images = {
        "transparent colour": colour,
        "array": np.asarray(page),
        "tensor": torch.from_numpy(np.array(page)).permute(2, 0, 1),
        "grey": page.convert("L"),
        "alpha": transparent,
        "palette": transparent.quantize(16),
        "one bit": page.convert("1"),
        "16 bit": Image.fromarray(np.asarray(page.convert("L")).astype(np.uint16) * 257),
        "path": str(tmp_path / "screen.png"),
        "nested": page,
    }
    stock = disable(processor=copy.deepcopy(qwen))
    stock.family = families.get("qwen3_vl")
    given = images[kind]
    expected, actual = call(stock, [given, pictures[1]]), call(qwen, [given, pictures[1]])
    assert torch.equal(actual["pixel_values"], expected["pixel_values"][kept_rows(stock, actual)])


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (33, 47), (2000, 40)])
def test_odd_sizes(qwen: Any, size: tuple[int, int]) -> None:
    stock = disable(processor=copy.deepcopy(qwen))
    stock.family = families.get("qwen3_vl")
    image = Image.fromarray(photograph(2048)).crop((0, 0, *size))
    expected, actual = call(stock, [image]), call(qwen, [image])
    assert torch.equal(actual["pixel_values"], expected["pixel_values"][kept_rows(stock, actual)])


def test_floats_are_refused(qwen: Any, pictures: list) -> None:
    floats = np.asarray(pictures[0]) / 255
    with pytest.raises(ValueError, match="images must be 8-bit to be compared pixel by pixel, got float64; pass uint8"):
        call(qwen, [floats])
    unpruned = call(qwen, [floats], pixelprune=False, do_rescale=False)
    assert bool((unpruned["image_map"] >= 0).all())


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "I;16", "F", "CMYK", "array"])
@pytest.mark.parametrize("name", ["qwen3_vl", "kimi_k25"])
def test_what_is_not_converted_to_rgb(name: str, mode: str, pictures: list) -> None:
    """Refused in one sentence, alone and beside another image; without pruning it is what stock code makes of it."""
    stock = processor_of(name)
    _skip_without_seam(stock)
    stock.family = families.get(name)
    processor = enable(processor=copy.deepcopy(stock))
    grey = pictures[1].convert("L")
    image = np.asarray(pictures[1].convert("RGBA")) if mode == "array" else grey.convert(mode)
    text = r"images must be 8-bit RGB .*, got (uint8|uint16|bool|float32) with [1234] channel\(s\), which .*False"
    options = {"do_convert_rgb": False, "do_normalize": False, "do_rescale": False}
    try:
        expected = call(stock, [image], **options)
    except ValueError as error:  # older versions take 1 and 3 channels only
        text = re.escape(str(error))
        expected = None
    for images in ([image], [pictures[0], image]):
        with pytest.raises(ValueError, match=text):
            call(processor, images, do_convert_rgb=False)
    if expected is None:
        return
    unpruned = call(processor, [image], pixelprune=False, **options)
    assert bool((unpruned.pop("image_map") >= 0).all())
    assert unpruned.keys() == expected.keys()
    assert all(torch.equal(unpruned[key], expected[key]) for key in expected)


def test_rgb_that_needs_no_conversion(qwen: Any, pictures: list) -> None:
    for image in (pictures[1], np.asarray(pictures[1]), pictures[1].convert("YCbCr")):
        stock = disable(processor=copy.deepcopy(qwen))
        stock.family = families.get("qwen3_vl")
        options = {"do_convert_rgb": False}
        expected, actual = call(stock, [image], **options), call(qwen, [image], **options)
        assert torch.equal(actual["pixel_values"], expected["pixel_values"][kept_rows(stock, actual)])


def test_another_patch_size_in_one_call_is_refused(qwen: Any, pictures: list) -> None:
    with pytest.raises(ValueError, match="patch_size must be 16, as when pruning was enabled, got 14"):
        call(qwen, pictures, patch_size=14)


def test_own_statistics_and_raw_pixels(qwen: Any, pictures: list) -> None:
    stock = disable(processor=copy.deepcopy(qwen))
    stock.family = families.get("qwen3_vl")
    for options in (
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"size": {"shortest_edge": 3136, "longest_edge": 200704}},
    ):
        expected, actual = call(stock, pictures, **options), call(qwen, pictures, **options)
        assert torch.equal(actual["pixel_values"], expected["pixel_values"][kept_rows(stock, actual)]), options


def test_return_types(qwen: Any, pictures: list) -> None:
    tensors = call(qwen, pictures)
    arrays = call(qwen, pictures, return_tensors="np")
    assert isinstance(arrays["image_map"], np.ndarray)
    assert np.array_equal(arrays["pixel_values"], tensors["pixel_values"].numpy())
    assert kept(arrays) == kept(tensors)
    unpadded = qwen(text=[f"read {qwen.image_token}"], images=pictures[:1])
    assert len(unpadded["pixel_values"]) == 4 * int((unpadded["image_map"] >= 0).sum())
    on_device = call(qwen, pictures, device="cpu")
    assert torch.equal(on_device["pixel_values"], tensors["pixel_values"])


def test_text_alone(qwen: Any) -> None:
    inputs = qwen(text=["the quick fox"], return_tensors="pt")
    assert "image_map" not in inputs
    assert kept(inputs) == []


def test_videos_pass_unpruned(qwen: Any, pictures: list) -> None:
    stock = disable(processor=copy.deepcopy(qwen))
    frames = np.stack([np.asarray(pictures[1].resize((320, 192)))] * 4)
    text = [f"see {qwen.video_token} and {qwen.image_token}"]

    def run(processor: Any) -> Any:
        return processor(text=text, videos=[frames], images=pictures[:1], return_tensors="pt", do_sample_frames=False)

    expected, actual = run(stock), run(qwen)
    assert torch.equal(actual["pixel_values_videos"], expected["pixel_values_videos"])
    assert torch.equal(actual["video_grid_thw"], expected["video_grid_thw"])
    count = int((expected["input_ids"] == qwen.video_token_id).sum())
    assert int((actual["input_ids"] == qwen.video_token_id).sum()) == count > 0
    assert int((actual["input_ids"] == qwen.image_token_id).sum()) == int((actual["image_map"] >= 0).sum())


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies(stock: Any, pictures: list, way: str) -> None:
    processor = enable(processor=copy.deepcopy(stock), threshold=0.02)
    expected = call(processor, pictures)
    copied = copy.deepcopy(processor) if way == "deepcopy" else pickle.loads(pickle.dumps(processor))
    actual = call(copied, pictures)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_saved_as_stock(stock: Any, tmp_path: Path) -> None:
    del stock.family
    stock.save_pretrained(tmp_path / "stock")
    processor = enable(processor=copy.deepcopy(stock), threshold=0.02)
    assert type(processor).__name__ == type(stock).__name__
    processor.save_pretrained(tmp_path / "pruned")
    for file in (tmp_path / "stock").iterdir():
        assert file.read_bytes() == (tmp_path / "pruned" / file.name).read_bytes(), file.name
    assert "pixelprune" not in json.dumps([processor.to_dict(), processor.image_processor.to_dict()], default=str)
    assert disable(processor=processor) is processor
    assert type(processor) is type(stock)
    assert type(processor.image_processor) is type(stock.image_processor)
    assert processor.image_processor.__dict__.keys() == stock.image_processor.__dict__.keys()


def test_auto_class_loads_the_stock_processor(qwen: Any, tmp_path: Path) -> None:
    qwen.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(disable(processor=qwen))


def test_what_the_classes_of_an_enabled_processor_make_is_stock(stock: Any, tmp_path: Path) -> None:
    del stock.family
    processor = enable(processor=copy.deepcopy(stock))
    processor.save_pretrained(tmp_path)
    cls, image_cls = type(processor), type(processor.image_processor)
    assert inspect.signature(image_cls) == inspect.signature(type(stock.image_processor))
    loaded = cls.from_pretrained(tmp_path)
    assert type(loaded) is type(stock)
    parts = [loaded.image_processor, image_cls(), image_cls.from_pretrained(tmp_path), image_cls.from_dict({})]
    assert {type(part) for part in parts} == {type(stock.image_processor)}
    given = {name: getattr(stock, name) for name in stock.get_attributes()}
    assert type(cls(**given)) is type(stock)


def test_enabling_again_replaces_the_options(qwen: Any, pictures: list) -> None:
    first = int((call(qwen, pictures)["image_map"] >= 0).sum())
    enable(processor=qwen, threshold=0.05)
    assert int((call(qwen, pictures)["image_map"] >= 0).sum()) < first
    enable(processor=qwen)
    assert int((call(qwen, pictures)["image_map"] >= 0).sum()) == first
    assert [cls.__name__ for cls in type(qwen).__mro__].count(type(qwen).__name__) == 2


@pytest.mark.skipif(not (SHARED / "corpus").is_dir(), reason="the corpus does not lie beside the project")
def test_real_images(qwen: Any) -> None:
    stock = disable(processor=copy.deepcopy(qwen))
    stock.family = families.get("qwen3_vl")
    files = sorted(p for p in (SHARED / "corpus").rglob("*") if p.suffix in (".png", ".jpg", ".jpeg", ".webp"))
    for file in files[::12]:
        image = [Image.open(file)]
        image[0].draft("RGB", (1200, 1200))
        expected, actual = call(stock, image), call(qwen, image, pixelprune={"threshold": 0.02})
        assert torch.equal(actual["pixel_values"], expected["pixel_values"][kept_rows(stock, actual)]), file.name
