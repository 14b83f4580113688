"""One engine in a process of its own: python engine.py JOB RESULT.

JOB is JSON: `model` (folder), `engine` (options of LLM), `requests` (prompt, images as paths, options), `rounds` (lists
of indices of requests; each list is one call of generate), and `lora`, the folder of an adapter, if there is one.
RESULT is a list of rounds of answers. The version of vLLM comes with it, and whatever `probe` asks for, such as the
name of the model's class.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def request(spec: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image

    images = [Image.open(path).convert("RGB") for path in spec["images"]]
    given = "prompt" if isinstance(spec["prompt"], str) else "prompt_token_ids"
    asked: dict[str, Any] = {given: spec["prompt"]}
    if images:
        asked["multi_modal_data"] = {"image": images}
    if "video" in spec:
        import numpy as np

        frames = np.load(spec["video"])
        asked.setdefault("multi_modal_data", {})["video"] = [(frames, video_metadata(len(frames)))]
    if "options" in spec:
        asked["mm_processor_kwargs"] = spec["options"]
    if "uuids" in spec:
        asked["multi_modal_uuids"] = {"image": spec["uuids"]}
    return asked


def video_metadata(frames: int) -> dict[str, Any]:
    return {
        "fps": 2.0,
        "duration": frames / 2,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "opencv",
        "do_sample_frames": False,
    }


def answer(output: Any) -> dict[str, Any]:
    completion = output.outputs[0]
    prompt = output.prompt_logprobs
    return {
        "prompt_ids": list(output.prompt_token_ids),
        "prompt_logprobs": None
        if not prompt
        else [scores[token].logprob for scores, token in zip(prompt[1:], output.prompt_token_ids[1:], strict=True)],
        "ids": list(completion.token_ids),
        "logprobs": [s[t].logprob for s, t in zip(completion.logprobs, completion.token_ids, strict=True)],
        "cached": output.num_cached_tokens,
    }


def main(job: dict[str, Any]) -> dict[str, Any]:
    import vllm
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = {
        "dtype": "float32",
        "max_model_len": 4096,
        "max_num_batched_tokens": 4096,
        "max_num_seqs": 8,
        "enforce_eager": True,
        "limit_mm_per_prompt": {"image": 12, "video": 0},
        **job["engine"],
    }
    llm = LLM(job["model"], **engine)
    sampling = SamplingParams(
        max_tokens=job.get("max_tokens", 8),
        temperature=0,
        ignore_eos=True,
        logprobs=0,
        prompt_logprobs=0 if job.get("prompt_logprobs", True) else None,
    )
    lora = LoRARequest("adapter", 1, job["lora"]) if "lora" in job else None
    rounds: list[list[Any]] = []
    for indices in job["rounds"]:
        specs = [job["requests"][i] for i in indices]
        try:
            outputs = llm.generate([request(spec) for spec in specs], sampling, use_tqdm=False, lora_request=lora)
        except ValueError as error:
            rounds.append([{"error": str(error)}])
        else:
            rounds.append([answer(output) for output in outputs])
    found: dict[str, Any] = {"rounds": rounds, "vllm": vllm.__version__}
    if job.get("probe"):
        found["probe"] = llm.apply_model(PROBES[job["probe"]])
    return found


def _loaded(model: Any) -> list[str]:
    return [type(model).__module__, type(model).__name__]


PROBES = {"class": _loaded}

if __name__ == "__main__":
    result = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
