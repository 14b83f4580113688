"""Prune images in ms-swift 4.6: swift sft --external_plugins examples/ms_swift.py --model_type qwen3_vl_pruned …

For Qwen3-VL without DeepSpeed, packing and padding-free batches, which count or encode all blocks.
"""

# mypy: ignore-errors
import torch
from swift.model import Model, ModelGroup, ModelMeta, register_model
from swift.model.models.qwen import Qwen3VLLoader
from swift.template import Template, register_template
from swift.template.templates.qwen import Qwen3VLTemplate, QwenTemplateMeta
from swift.template.utils import findall

from pixelprune.transformers import enable

NAME = "qwen3_vl_pruned"
OPTIONS = {"threshold": 0.0}


class PrunedLoader(Qwen3VLLoader):
    def get_processor(self, model_dir, config):
        return enable(processor=super().get_processor(model_dir, config), **OPTIONS)

    def get_model(self, model_dir, config, processor, model_kwargs):
        return enable(super().get_model(model_dir, config, processor, model_kwargs))


class PrunedTemplate(Qwen3VLTemplate):
    def _encode(self, inputs):
        """As in ms-swift, with as many placeholders as an image has tokens."""
        encoded = Template._encode(self, inputs)
        if inputs.videos:
            raise ValueError("videos are not supported here; train on them with --model_type qwen3_vl")
        if not inputs.images:
            return encoded
        pixels = self.processor.image_processor(images=inputs.images, return_tensors="pt", do_resize=False)
        blocks = pixels["image_grid_thw"].prod(1) // self.processor.image_processor.merge_size**2
        counts = [int((part >= 0).sum()) for part in pixels["image_map"].split(blocks.tolist())]
        token, ids = self.processor.image_token_id, encoded["input_ids"]
        ids, labels, scale, is_image = self._extend_tokens(
            ids,
            encoded["labels"],
            encoded.get("loss_scale"),
            findall(ids, token),
            lambda i: [token] * counts[i],
            mm_mask=[False] * len(ids),
        )
        types = self.create_mm_token_type_ids(ids, is_image)
        return {
            **encoded,
            **pixels,
            "input_ids": ids,
            "labels": labels,
            "loss_scale": scale,
            "mm_token_type_ids": types,
        }

    def _get_position_ids(self, inputs):  # noqa: ARG002
        return {}  # ms-swift would count every block; the model finds the positions of those that are there

    def _data_collator_mm_data(self, batch):
        result = super()._data_collator_mm_data(batch)
        if maps := [row["image_map"] for row in batch if "image_map" in row]:
            result["image_map"] = torch.cat(maps)
        return result


register_template(QwenTemplateMeta(NAME, template_cls=PrunedTemplate, default_system=None))
register_model(ModelMeta(NAME, [ModelGroup([Model()], NAME)], PrunedLoader, model_arch="qwen3_vl", is_multimodal=True))
