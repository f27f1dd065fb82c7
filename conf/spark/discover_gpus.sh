#!/usr/bin/env bash
# The GPUs of this machine, as Spark's resource discovery wants them: {"name": "gpu", "addresses": ["0", "1"]}.
# For spark.executor.resource.gpu.discoveryScript (YARN, Kubernetes) and spark.worker.resource.gpu.discoveryScript
# (standalone). Numbers, not UUIDs: a rank computes on cuda:NUMBER.
set -euo pipefail

numbers=$(nvidia-smi --query-gpu=index --format=csv,noheader) || {
  echo "discover_gpus.sh: nvidia-smi does not list the GPUs of $(hostname): is the NVIDIA driver installed?" >&2
  exit 1
}
[ -n "$numbers" ] || {
  echo "discover_gpus.sh: nvidia-smi lists no GPU on $(hostname)" >&2
  exit 1
}
addresses=$(sed -e 's/ //g' -e 's/.*/"&"/' <<<"$numbers" | paste -sd, -)
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
