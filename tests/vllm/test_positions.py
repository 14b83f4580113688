"""Language-model positions, to the integer: the columns of kept tokens in what transformers gives the full prompt."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.transformers_utils.config import get_config

from pixelprune.plan.keep import IMAGE_KEPT
from pixelprune.vllm import ARCHITECTURES
from tests.support.small_models import SMALL, for_vllm

TEXT = 7


def images(seed: int) -> list[tuple[int, int, torch.Tensor | None]]:
    """Rows, columns and keep mask of three images; of the second one nothing is asked to be dropped."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(3, 5), (2, 2), (6, 1)]
    first, _, last = masks = [torch.rand(rows * width, generator=generator) < 0.4 for rows, width in sizes]
    for mask in masks:
        mask[seed % len(mask)] = True  # at least one block is kept, and not always the first one
    return [(*size, mask) for size, mask in zip(sizes, [first, None, last], strict=True)]


@pytest.mark.parametrize("family", SMALL)
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
            data[IMAGE_KEPT] = SimpleNamespace(data=mask)
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

    stock = AutoModelForImageTextToText.from_pretrained(folder)
    ids = torch.tensor([full])
    grids = torch.tensor([[1, 2 * rows, 2 * width] for rows, width, _ in images(seed)])
    expected, _ = stock.model.get_rope_index(ids, (ids == config.image_token_id).int(), image_grid_thw=grids)
    assert positions.tolist() == expected[:, 0, columns].tolist()
    assert len(tokens) + delta == int(expected.max()) + 1
