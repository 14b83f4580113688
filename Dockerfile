# vLLM's official image with PixelPrune; the options of `docker run` after the name are those of `vllm serve`.
#
#   docker build --tag vllm-pixelprune .
#   docker run --gpus all --ipc=host --publish 8000:8000 vllm-pixelprune \
#       Qwen/Qwen3-VL-8B-Instruct --hf-overrides '{"pixelprune": {"threshold": 0.0}}'
FROM vllm/vllm-openai:v0.32.0

COPY pyproject.toml README.md LICENSE /opt/pixelprune/
COPY src /opt/pixelprune/src

# The last command compiles the kernels, so that the first request does not have to.
RUN python3 -m pip install --no-cache-dir /opt/pixelprune \
    && pixelprune show --help > /dev/null \
    && python3 -c "import numpy, pixelprune; pixelprune.select(numpy.zeros((64, 64, 3), numpy.uint8))"
