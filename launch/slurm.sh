#!/bin/bash
# A training on N nodes × M GPUs: sbatch --nodes 2 --gpus-per-node 8 launch/slurm.sh train gaugan --preset large …
# One process a node drives its GPUs. Where its reading of records holds it up, one process a GPU:
#     sbatch --nodes 2 --gpus-per-node 8 --ntasks-per-node 8 --cpus-per-task 8 launch/slurm.sh train gaugan …
# with or without --gpus-per-task 1: a process takes what SLURM has bound to it, or its share of the node.
# Pre-empted, or two minutes before its time is over, every process saves and the job goes back into the queue, to go on
# from there. Records and the run folder lie where all nodes see them.
#SBATCH --job-name=cardiojax
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
PREEMPTED=75
stop() { scancel --signal=TERM "$SLURM_JOB_ID"; }  # to every process; at TERM itself srun has them killed
trap stop TERM

srun --kill-on-bad-exit=1 cardiojax "$@" &
steps=$!
wait "$steps"; code=$?
while kill -0 "$steps" 2>/dev/null; do wait "$steps"; code=$?; done      # a signal ends the first wait

if [ "$code" -eq 0 ] || [ "$code" -eq 2 ]; then exit "$code"; fi          # done, or the user's to mend
tries=${SLURM_RESTART_COUNT:-0}
if [ "$code" -eq "$PREEMPTED" ] || [ "$tries" -lt 5 ]; then
    echo "exit code $code; back into the queue, to go on from the last checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
