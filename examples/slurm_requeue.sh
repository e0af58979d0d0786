#!/bin/bash
# A training that is longer than a job may be, under SLURM: sbatch slurm_requeue.sh
#
# Five minutes before the time limit every process of the job step gets a SIGUSR1. étude finishes the step it is in,
# saves the run and ends with exit code 75; the job is put back into the queue, under its own number, and goes on from
# there when its turn comes. The same happens after a SIGTERM, with which SLURM preempts a job.
#
#SBATCH --job-name=digits
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8

file=${1:-experiment.py} # the experiment file
run=${2:-runs/digits}    # where all of the run is written: a folder that every node sees
most=${3:-100}           # times that it is put back at most

if [ -e "$run/experiment.json" ]; then
    srun etude resume "$run" --quiet
else
    srun etude train "$file" --out "$run" --quiet
fi
code=$?

if [ "$code" -ne 75 ]; then
    exit "$code"
elif [ "${SLURM_RESTART_COUNT:-0}" -ge "$most" ]; then
    echo "put back $most times already; to go on: etude resume $run" >&2
    exit "$code"
fi
scontrol requeue "$SLURM_JOB_ID"
