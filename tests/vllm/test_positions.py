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
    """Rows, columns and token map of three images; of the second one nothing is asked to be dropped."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, 5), (2, 2), (6, 1)]
    maps: list[torch.Tensor | None] = []
    for rows, width in sizes:
        total = rows * width
        kept, copied = (torch.rand(total, generator=generator) < share for share in (0.3, 0.3))
        block = seed % total
        kept[block] = True  # at least one block is kept, and not always the first one
        values = torch.where(copied, block, -1)
        maps.append(torch.where(kept, torch.arange(total), values).int())
    return [(*size, values) for size, values in zip(sizes, [maps[0], None, maps[2]], strict=True)]


@pytest.mark.parametrize("family", [name for name in SMALL if name != "exaone4_5"])  # which has one axis
@pytest.mark.parametrize("seed", range(3))
def test_positions_are_those_of_the_full_prompt(family: str, seed: int, checkpoint: Any) -> None:
    small, folder = SMALL[family], checkpoint(family)
    config = get_config(str(for_vllm(folder)), trust_remote_code=False)
    full, tokens, columns, features = [TEXT] * 4, [TEXT] * 4, [0, 1, 2, 3], []
    start = getattr(config, "vision_start_token_id", None) or config.image_start_token_id
    end = getattr(config, "vision_end_token_id", None) or config.image_end_token_id
    for number, (rows, width, values) in enumerate(images(seed)):
        stays = torch.ones(rows * width, dtype=torch.bool) if values is None else values >= 0
        columns += [len(full), *(len(full) + 1 + n for n in stays.nonzero()[:, 0].tolist())]
        columns += [len(full) + 1 + len(stays) + n for n in range(3)]
        grid = torch.tensor([1, 2 * rows, 2 * width])
        data = {"image_grid_thw": SimpleNamespace(data=grid)}
        if values is not None:
            data[IMAGE_MAP] = SimpleNamespace(data=values)
        place = PlaceholderRange(offset=len(tokens) + 1, length=int(stays.sum()))
        features.append(
            MultiModalFeatureSpec(data=data, modality="image", identifier=str(number), mm_position=place)  # type: ignore[arg-type]
        )
        full += [start, *[config.image_token_id] * len(stays), end, TEXT, TEXT]
        tokens += [start, *[config.image_token_id] * int(stays.sum()), end, TEXT, TEXT]

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
