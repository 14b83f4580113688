"""What the adapters do with an image processor, on arrays and on a processor that must be refused."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="patches are torch tensors")
pytest.importorskip("transformers", reason="image processors are those of transformers")

import torch

from pixelprune.plan.pixels import ImagePruner, in_bytes
from pixelprune.standins import standin_processor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_that_were_put_into_floats(dtype: torch.dtype) -> None:
    patches = torch.arange(3000, dtype=dtype).remainder(256).repeat(2, 1).T.contiguous()
    assert torch.equal(in_bytes(patches), patches.to(torch.uint8))
    assert torch.equal(in_bytes(list(patches.split(1000))), patches.to(torch.uint8))


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0, float("nan"), float("inf")])
def test_floats_that_are_not_bytes(value: float) -> None:
    patches = torch.ones(2500, 4)
    patches[2400, 2] = value
    assert in_bytes(patches) is patches


def test_normalization_that_depends_on_the_place_is_refused() -> None:
    image_processor = standin_processor().image_processor
    ImagePruner.of(image_processor, image_processor.preprocess)

    def preprocess(images: Any, **options: Any) -> Any:
        output = image_processor.preprocess(images, **options)
        if options.get("do_normalize") is not False:
            output["pixel_values"][-1] += 1e-3
        return output

    with pytest.raises(ValueError, match="its normalized values depend on more than value and channel"):
        ImagePruner.of(image_processor, preprocess)
    ImagePruner.of(image_processor, preprocess, normalizes=False)
