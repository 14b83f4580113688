"""Ask a vision-language model about an image, with pruning on, and print what that saved.

    python examples/chat.py MODEL IMAGE "What is the total?" [--threshold 0.02]

MODEL is a name on a hub or a folder; it must be of a family that `pixelprune.transformers` knows.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import pixelprune


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a vision-language model about an image, pruned.")
    parser.add_argument("model", help="name or folder")
    parser.add_argument("image", help="path or URL")
    parser.add_argument("question")
    parser.add_argument(
        "--threshold", type=float, default=0.0, help="τ, as a fraction of full scale; default 0: lossless"
    )
    parser.add_argument("--max-new-tokens", type=int, default=256)
    options = parser.parse_args()
    try:
        config = pixelprune.PruneConfig(threshold=options.threshold)
    except ValueError as error:
        parser.error(str(error))

    model = AutoModelForImageTextToText.from_pretrained(options.model, dtype="auto").to(
        "cuda" if torch.cuda.is_available() else "cpu"
    )
    processor = AutoProcessor.from_pretrained(options.model)
    pixelprune.transformers.enable(model, processor, config)

    parts = [{"type": "image", "url": options.image}, {"type": "text", "text": options.question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device)
    answer = model.generate(**inputs, max_new_tokens=options.max_new_tokens)
    new = answer[:, inputs["input_ids"].shape[1] :]

    print(processor.batch_decode(new, skip_special_tokens=True)[0])
    for image in pixelprune.transformers.kept(inputs):
        print(f"visual tokens: {image.total} → {image.kept} ({image.retain_ratio:.0%} retained)")


if __name__ == "__main__":
    main()
