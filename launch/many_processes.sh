#!/bin/bash
# A training on one machine, one process a GPU: launch/many_processes.sh train sfera --preset large …
# One process drives all GPUs just as well (`cardiojax train …` alone); several help where the host's work, such as
# reading records, holds one process up. A process that dies is started again with the others, from the last checkpoint.
# GPUS: how many; all that nvidia-smi lists by default.
set -eu
GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
exec cardiojax local --processes "$GPUS" --devices 1 -- "$@"
