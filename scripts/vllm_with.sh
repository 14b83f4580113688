#!/usr/bin/env bash
# Run a command with another version of vLLM, of those that vllm_env.sh puts into DIR: vllm_with.sh DIR VERSION COMMAND...
set -euo pipefail
folder=$(realpath -e "${1:?usage: vllm_with.sh DIR VERSION COMMAND...}/versions/${2:?}")
shift 2
export PYTHONPATH=$folder${PYTHONPATH:+:$PYTHONPATH}
# What vLLM has found out about a class depends on its version.
export VLLM_CACHE_ROOT=$folder/cache
exec "$@"
