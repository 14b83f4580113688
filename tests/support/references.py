"""What models must say that `pixelprune.transformers` cannot ask: full models that do not see what is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2Config, Qwen2ForCausalLM, Qwen2VLProcessor

import pixelprune
from tests.support import ernie, oracle
from tests.support.dots import DotsVision
from tests.support.prompts import Prompt, patch_places
from tests.support.tiny_models import ALL


class Reference:
    """A checkpoint, its processor, and how it answers.

    Attributes:
        order: of the processor's patches.
        tower: name of the vision encoder.
    """

    order, tower = "block", ""
    processor: Any

    def prompt(self, spec: dict[str, Any]) -> Prompt:
        """The request in full, with the blocks that may stay, and the copies."""
        asked = spec.get("options", {}).get("pixelprune", False)
        config = pixelprune.selection.config.resolve(asked, None)
        images = [Image.open(path).convert("RGB") for path in spec["images"]]
        inputs = dict(self.processor(text=[spec["prompt"]], images=images, return_tensors="pt"))
        image_processor = self.processor.image_processor
        raw = image_processor(images, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
        patch, merge = image_processor.patch_size, image_processor.merge_size
        keep, maps, start = [], [], 0
        for _, h, w in inputs["image_grid_thw"].tolist():
            places = patch_places((h, w), merge, self.order).view(h // merge, w // merge, merge, merge)
            cut = raw[start : start + h * w].view(h * w, 3, patch, patch)[places]
            picture = cut.permute(0, 2, 5, 1, 3, 6, 4).reshape(h * patch, w * patch, 3).numpy().astype(np.uint8)
            if config is None:
                keep.append(torch.ones(h * w // merge**2, dtype=torch.bool))
                maps.append(torch.arange(h * w // merge**2).int())
            else:
                selection = pixelprune.select(picture, config, block=patch * merge)
                keep.append(torch.from_numpy(selection.keep.ravel()))
                maps.append(torch.from_numpy(np.where(selection.restored, selection.source, -1).ravel()).int())
                maps[-1][keep[-1]] = keep[-1].nonzero()[:, 0].int()
            start += h * w
        image = inputs["input_ids"] == self.processor.image_token_id
        selected = ~image
        selected[image] = torch.cat(maps) >= 0
        return Prompt(inputs, keep, selected, maps)

    def logits(self, prompt: Prompt) -> Tensor:
        """(tokens that are kept, vocabulary)."""
        raise NotImplementedError

    @torch.no_grad()
    def answer(self, spec: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        """The same as that of `Transformers`."""
        prompt = self.prompt(spec)
        short = prompt.inputs["input_ids"][prompt.selected].tolist()
        for name in ("input_ids", "attention_mask", "mm_token_type_ids", "moe_mm_token_type_ids"):
            if name in prompt.inputs:
                filler = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
                extra = filler.get(name, torch.zeros(1, len(ids))).to(prompt.inputs[name].dtype)
                prompt.inputs[name] = torch.cat([prompt.inputs[name], extra], dim=1)
        prompt.selected = torch.cat([prompt.selected, torch.ones(1, len(ids), dtype=torch.bool)], dim=1)
        scores = self.logits(prompt).float().log_softmax(-1)
        tokens = torch.tensor([*short, *ids])
        said = scores[:-1].gather(1, tokens[1:, None])[:, 0].tolist()
        return {
            "prompt_ids": short,
            "prompt_logprobs": said[: len(short) - 1],
            "ids": scores[len(short) - 1 : -1].argmax(-1).tolist(),
            "logprobs": said[len(short) - 1 :],
        }


class Masked(Reference):
    """The stock model of transformers, whose attention is kept from seeing what is dropped."""

    def __init__(self, folder: Path) -> None:
        model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
        self.model, self.processor = model.eval(), AutoProcessor.from_pretrained(folder)

    def logits(self, prompt: Prompt) -> Tensor:
        return oracle.masked_logits(self.model, self.tower, self.order, ALL[self.model.config.model_type], prompt)


class PaddleOCR(Masked):
    tower, order = "visual", "row"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for part in self.model.modules():
            # vLLM stretches the table of positions in another way, pruned or not.
            if hasattr(part, "interpolation_align_corners"):
                part.interpolation_align_corners = False


class Ernie(Masked):
    tower = "vision_tower"

    def prompt(self, spec: dict[str, Any]) -> Prompt:
        return super().prompt({**spec, "prompt": spec["prompt"].replace(ernie.PLACEHOLDER, ernie.TOKEN)})


class DotsOCR(Reference):
    def __init__(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        config = Qwen2Config.from_pretrained(folder)
        self.text = Qwen2ForCausalLM(config).eval()
        self.vision = DotsVision(config.vision_config).eval()
        self.text.load_state_dict({n: w for n, w in weights.items() if not n.startswith("vision_tower.")})
        self.vision.load_state_dict(
            {n.removeprefix("vision_tower."): w for n, w in weights.items() if n.startswith("vision_tower.")}
        )
        self.processor = Qwen2VLProcessor.from_pretrained(folder, trust_remote_code=False)
        self.processor.image_token = "<|imgpad|>"
        self.processor.image_token_id = config.image_token_id

    def logits(self, prompt: Prompt) -> Tensor:
        grids = prompt.inputs["image_grid_thw"].tolist()
        pixels = prompt.inputs["pixel_values"].split([h * w for _, h, w in grids])
        parts = zip(pixels, grids, prompt.keep, strict=True)
        kept = [self.vision(patches, (h, w), keep) for patches, (_, h, w), keep in parts]
        # A token has the feature of the block that its map names, which is kept.
        ranks = [
            (keep.cumsum(0) - 1)[values[values >= 0].long()]
            for keep, values in zip(prompt.keep, prompt.maps, strict=True)
        ]
        features = torch.cat([part[rank] for part, rank in zip(kept, ranks, strict=True)])
        ids = prompt.inputs["input_ids"][prompt.selected]
        embeds = self.text.get_input_embeddings()(ids)
        # What is answered can be a placeholder too, which then is a token as any other.
        embeds[(ids == self.processor.image_token_id).nonzero()[: len(features), 0]] = features
        return self.text(inputs_embeds=embeds[None], use_cache=False).logits[0]


REFERENCES = {"ernie4_5_vl_moe": Ernie, "dots_ocr": DotsOCR, "paddleocr_vl": PaddleOCR}
