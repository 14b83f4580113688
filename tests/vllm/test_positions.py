"""Language-model positions: exactly those of the full prompt in transformers, and a table long enough for them."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.transformers_utils.config import get_config

from pixelprune.plan.token_map import IMAGE_MAP
from pixelprune.vllm import ARCHITECTURES
from pixelprune.vllm.positions import furthest_ahead, grow_table, table_rows
from tests.support.model_config import model_config
from tests.support.small_models import SMALL, for_vllm
from tests.support.tiny_models import ALL, module_of

TEXT = 7


def images(seed: int) -> list[tuple[int, int, torch.Tensor | None]]:
    """Rows, columns and keep mask of three images; of the second one nothing is asked to be dropped."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, 5), (2, 2), (6, 1)]
    first, _, last = masks = [torch.rand(rows * width, generator=generator) < 0.4 for rows, width in sizes]
    for mask in masks:
        mask[seed % len(mask)] = True  # at least one block is kept, and not always the first one
    return [(*size, mask) for size, mask in zip(sizes, [first, None, last], strict=True)]


@pytest.mark.parametrize("family", [name for name in SMALL if name != "exaone4_5"])  # which has one axis
@pytest.mark.parametrize("seed", range(3))
def test_positions_are_those_of_the_full_prompt(family: str, seed: int, checkpoint: Any) -> None:
    small, folder = SMALL[family], checkpoint(family)
    config = get_config(str(for_vllm(folder)), trust_remote_code=False)
    full, tokens, columns, features = [TEXT] * 4, [TEXT] * 4, [0, 1, 2, 3], []
    start = getattr(config, "vision_start_token_id", None) or config.image_start_token_id
    end = getattr(config, "vision_end_token_id", None) or config.image_end_token_id
    for number, (rows, width, mask) in enumerate(images(seed)):
        keep = torch.ones(rows * width, dtype=torch.bool) if mask is None else mask
        columns += [len(full), *(len(full) + 1 + n for n in keep.nonzero()[:, 0].tolist())]
        columns += [len(full) + 1 + len(keep) + n for n in range(3)]
        grid = torch.tensor([1, 2 * rows, 2 * width])
        data = {"image_grid_thw": SimpleNamespace(data=grid)}
        if mask is not None:
            own = torch.arange(len(mask)).int()
            data[IMAGE_MAP] = SimpleNamespace(data=torch.where(mask, own, -1).int())
        place = PlaceholderRange(offset=len(tokens) + 1, length=int(keep.sum()))
        features.append(
            MultiModalFeatureSpec(data=data, modality="image", identifier=str(number), mm_position=place)  # type: ignore[arg-type]
        )
        full += [start, *[config.image_token_id] * len(keep), end, TEXT, TEXT]
        tokens += [start, *[config.image_token_id] * int(keep.sum()), end, TEXT, TEXT]

    ours: Any = getattr(
        import_module(f"pixelprune.vllm.models.{ARCHITECTURES[small.architecture]}"), small.architecture
    )
    model = ours.__new__(ours)
    torch.nn.Module.__init__(model)
    model.config = config
    positions, delta = model.get_mrope_input_positions(tokens, features)

    # By its name: vLLM 0.31 puts configs into transformers' Auto classes that its own Qwen3.5 does not take.
    tiny = ALL[family]
    stock = getattr(module_of(tiny), tiny.model).from_pretrained(folder)
    ids = torch.tensor([full])
    grids = torch.tensor([[1, 2 * rows, 2 * width] for rows, width, _ in images(seed)])
    expected, _ = stock.model.get_rope_index(ids, (ids == config.image_token_id).int(), image_grid_thw=grids)
    assert positions.tolist() == expected[:, 0, columns].tolist()
    assert len(tokens) + delta == int(expected.max()) + 1


@pytest.mark.parametrize("scaling", [None, 4.0])
def test_a_grown_table_begins_as_it_was(scaling: float | None) -> None:
    with set_current_vllm_config(VllmConfig()):
        rotary = MRotaryEmbedding(32, 32, 16, 1e4, True, torch.float32, mrope_section=[8, 4, 4], scaling_factor=scaling)
    before = rotary.cos_sin_cache.clone()
    grow_table(rotary, 1000)
    assert len(before) == 64 * (scaling or 1)
    assert len(rotary.cos_sin_cache) == 1000
    assert torch.equal(rotary.cos_sin_cache[: len(before)], before)
    grow_table(rotary, 500)
    assert len(rotary.cos_sin_cache) == 1000
    if scaling is None:
        angle = 999 * 1e4 ** (-torch.arange(0, 32, 2) / 32)
        assert torch.allclose(rotary.cos_sin_cache[999], torch.cat([angle.cos(), angle.sin()]), atol=1e-4)


def test_how_long_a_table_is() -> None:
    text = SimpleNamespace(max_position_embeddings=1000, rope_parameters={"rope_type": "default"})
    yarn = SimpleNamespace(
        max_position_embeddings=4000,
        rope_parameters={"rope_type": "yarn", "original_max_position_embeddings": 1000, "factor": 4.0},
    )
    plain = {"hf_text_config": text, "max_model_len": 500}
    assert table_rows(model_config({}, None, **plain), 1, False) == 1000
    assert table_rows(model_config({}, None, **plain), 4, False) == 4000
    assert table_rows(model_config({}, None, **plain), 1, True) == 2000
    assert table_rows(model_config({}, None, hf_text_config=yarn, max_model_len=500), 1, False) == 4000


def test_how_far_positions_run_ahead() -> None:
    assert furthest_ahead([]) == 0
    assert furthest_ahead([(10, 100)]) == 0
    # What a full image leaves behind, a flat one after it may use; not the other way round.
    assert furthest_ahead([(10, 100), (40, 1)]) == 0
    assert furthest_ahead([(40, 1), (10, 100), (40, 1)]) == 39
    assert furthest_ahead([(40, 1), (40, 1)]) == 78
