"""The trained checkpoint of this repository through the engine: the answers of transformers, and right ones.

Accuracy notices positions that are wrong, as random weights hardly can.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import pixelprune.transformers
from tests.support.engines import run
from tiny_model.evaluate import FOLDER, answers, load
from tiny_model.tasks import TASKS, held_out

COUNT = 250


def test_answers_of_the_trained_model(tmp_path: Path) -> None:
    samples = [sample for task in TASKS for sample in held_out(task, COUNT)]
    model, processor = pixelprune.transformers.enable(*load(FOLDER))
    requests = []
    for number, sample in enumerate(samples):
        Image.fromarray(sample.image).save(tmp_path / f"{number}.png")
        content = [{"type": "image"}, {"type": "text", "text": sample.question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        requests.append({"prompt": prompt, "images": [str(tmp_path / f"{number}.png")]})
    job = {
        "model": str(FOLDER),
        "requests": requests,
        "max_tokens": 4,
        "prompt_logprobs": False,
        "engine": {"hf_overrides": {"pixelprune": {"threshold": 0.0}}},
        "rounds": [list(range(len(requests)))],
    }
    found = run(tmp_path, job)["rounds"][0]
    said = processor.batch_decode([answer["ids"] for answer in found], skip_special_tokens=True)
    blocks = sum(sample.image.shape[0] * sample.image.shape[1] for sample in samples) // 32**2
    image_token = processor.image_token_id
    kept = sum(answer["prompt_ids"].count(image_token) for answer in found)
    there, retained = answers(model, processor, samples)
    assert kept / blocks == retained < 0.7
    # A tie between two words may fall either way; no more than that.
    assert sum(a == b for a, b in zip(said, there, strict=True)) >= 0.995 * len(samples)
    for task, least in (("read", 0.9), ("find", 0.9)):
        right = [sample.answer == words for sample, words in zip(samples, said, strict=True) if sample.task == task]
        assert sum(right) >= least * COUNT, task
