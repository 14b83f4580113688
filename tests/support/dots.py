"""dots.ocr's vision encoder in plain torch, by the names of the published weights, and a small checkpoint of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

from tests.support.checkpoints import tokenizer

VISION = {
    "embed_dim": 128,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 1,
    "rms_norm_eps": 1e-5,
}


class DotsVision(nn.Module):
    """Encodes one image in full; `keep` says which blocks are attended to, and come back."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        width, patch = config["embed_dim"], config["patch_size"]
        self.patch_embed = nn.Module()
        self.patch_embed.patchifier = nn.Module()
        self.patch_embed.patchifier.proj = nn.Conv2d(3, width, patch, patch)
        self.patch_embed.patchifier.norm = nn.RMSNorm(width, config["rms_norm_eps"])
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config["num_hidden_layers"]))
        self.post_trunk_norm = nn.RMSNorm(width, config["rms_norm_eps"])
        self.merger = nn.Module()
        unit = width * config["spatial_merge_size"] ** 2
        self.merger.ln_q = nn.LayerNorm(width, 1e-6)
        self.merger.mlp = nn.Sequential(nn.Linear(unit, unit), nn.GELU(), nn.Linear(unit, config["hidden_size"]))

    def forward(self, patches: Tensor, grid: tuple[int, int], keep: Tensor) -> Tensor:
        (h, w), m, patch = grid, self.config["spatial_merge_size"], self.config["patch_size"]
        patchifier = self.patch_embed.patchifier
        hidden = patchifier.norm(patchifier.proj(patches.view(-1, 3, patch, patch)).flatten(1))
        quarter = self.config["embed_dim"] // self.config["num_attention_heads"] // 4
        frequencies = 1e4 ** -(torch.arange(quarter) / quarter)
        places = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1)
        places = places.view(h // m, m, w // m, m, 2).transpose(1, 2).reshape(-1, 2)
        angles = (places[:, :, None] * frequencies).flatten(1)
        hidden_from = torch.zeros(h * w).masked_fill(~keep.repeat_interleave(m**2), -1e9)
        for block in self.blocks:
            hidden = block(hidden, angles, hidden_from)
        normed = self.merger.ln_q(self.post_trunk_norm(hidden))
        features: Tensor = self.merger.mlp(normed.view(len(keep), -1))[keep]
        return features


class _Block(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, inner = config["embed_dim"], config["intermediate_size"]
        self.heads = config["num_attention_heads"]
        self.norm1, self.norm2 = (nn.RMSNorm(width, config["rms_norm_eps"]) for _ in range(2))
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn.proj = nn.Linear(width, width, bias=False)
        self.mlp.fc1, self.mlp.fc3 = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.mlp.fc2 = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor, angles: Tensor, hidden_from: Tensor) -> Tensor:
        query, key, value = self.attn.qkv(self.norm1(hidden)).view(len(hidden), 3, self.heads, -1).permute(1, 2, 0, 3)
        query, key = _turned(query, angles), _turned(key, angles)
        scores = query @ key.mT / query.shape[-1] ** 0.5 + hidden_from
        mixed = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
        hidden = hidden + self.attn.proj(mixed)
        normed = self.norm2(hidden)
        gated: Tensor = hidden + self.mlp.fc2(nn.functional.silu(self.mlp.fc1(normed)) * self.mlp.fc3(normed))
        return gated


def _turned(values: Tensor, angles: Tensor) -> Tensor:
    first, second = values.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def save(text: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint as those that are published, with vLLM's own config class as its remote code."""
    names = tokenizer(False)
    config = Qwen2Config(**text, vocab_size=len(names), tie_word_embeddings=False)
    parts = {"": Qwen2ForCausalLM(config), "vision_tower.": DotsVision(VISION)}
    weights = {prefix + name: value for prefix, part in parts.items() for name, value in part.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    for name, value in weights.items():
        noise = torch.randn(value.shape, generator=generator)
        scale = 0.3 / (value[0].numel() / 32) ** 0.5 if value.dim() > 1 else 0.1
        weights[name] = noise * scale + (1 if value.dim() == 1 and name.endswith("weight") else 0)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    described = {
        **config.to_dict(),
        "architectures": ["DotsOCRForCausalLM"],
        "model_type": "dots_ocr",
        "auto_map": {"AutoConfig": "configuration_dots.DotsOCRConfig"},
        "image_token_id": names.convert_tokens_to_ids("<|imgpad|>"),
        "video_token_id": names.convert_tokens_to_ids("<|video_pad|>"),
        "vision_config": VISION,
    }
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    code = "from vllm.transformers_utils.configs.dotsocr import DotsOCRConfig\n"
    (folder / "configuration_dots.py").write_text(code, encoding="utf-8")
    sizes = {"shortest_edge": 64 * 64, "longest_edge": 2048**2}
    images = Qwen2VLImageProcessor(patch_size=14, temporal_patch_size=1, merge_size=2, size=sizes)
    Qwen2VLProcessor(images, names, Qwen2VLVideoProcessor()).save_pretrained(folder)
