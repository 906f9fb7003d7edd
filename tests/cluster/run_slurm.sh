#!/bin/bash
# SLURM on one machine, for a few minutes: examples/train.sbatch and `mhc-vision compare --launcher slurm` on digits, each
# put back into the queue once by the signal that a time limit would send, with their results checked.
#
#   apt-get install slurm-wlm munge
#   tests/cluster/run_slurm.sh [PYTHON]
#
# Needs root, as slurmd does, and two cores; no part of `make test`. All that the daemons write is in a temporary
# directory, and they are stopped at the end. It has passed with Debian 12's SLURM 22.05.8, on a machine without systemd
# and with cgroups v1, which it does not use (linuxproc, task/affinity).
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(command -v "${1:-.venv/bin/python}")
export PYTHONPATH=$PWD OMP_NUM_THREADS=1
work=$(mktemp -d)
daemons=()

stop() {
    status=$?
    [ $status = 0 ] || tail --verbose --lines=20 "$work"/*.log "$work"/*/.jobs/*.err "$work"/*.out 2>/dev/null || true
    scancel --me 2>/dev/null || true
    # jobs that are told to stop save a checkpoint; without daemons nobody would end them
    until_true 60 no_jobs || true
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait
    if [ $status = 0 ]; then rm -r "$work"; echo passed; else echo "failed; see $work"; fi
}
trap stop EXIT
trap 'exit 1' INT TERM

until_true() {
    # SECONDS COMMAND...: waits until the command succeeds
    local end=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "gave up after $1 s: ${*:2}"; return 1; }
        sleep 0.5
    done
}
no_jobs() { [ -z "$(squeue --noheader 2>/dev/null)" ]; }
has_ended() { [ -z "$(squeue --noheader --jobs "$1")" ]; }

mkdir "$work"/{state,spool} && mkdir --mode=700 "$work/munge"
head --bytes=1024 /dev/urandom > "$work/munge/key" && chmod 400 "$work/munge/key"
munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge/socket" --pid-file="$work/munge/pid" \
    --log-file="$work/munge.log" --seed-file="$work/munge/seed" > "$work/munged.log" 2>&1 &
daemons+=($!)
host=$(hostname -s)
# a requeued job waits for its credentials to expire, by default for two minutes
cat > "$work/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$work/slurm.conf
until_true 20 test -S "$work/munge/socket"
slurmctld -D > "$work/slurmctld.out" 2>&1 &
daemons+=($!)
until_true 30 scontrol ping
slurmd -D > "$work/slurmd.out" 2>&1 &
daemons+=($!)
until_true 30 srun --ntasks=1 true

echo "1. examples/train.sbatch, two processes of DDP on the digits"
run=$work/train
sed -e "s#configs/imagenet/[a-z0-9_]*.yaml#configs/digits.yaml#" -e "s#.venv/bin/python#$python#" \
    -e "s#runs/[a-z0-9-]*#$run --trainer.devices 2 --trainer.max_epochs 15 --model.model_args.depth 1#" \
    -e "s#--trainer.num_nodes 2#--trainer.num_nodes 1#" -e "s#total_batch_size 1024#total_batch_size 32#" \
    -e "/--data.root/d" examples/train.sbatch > "$work/train.sbatch"
job=$(sbatch --parsable --nodes=1 --ntasks-per-node=2 --gpus-per-node=0 --cpus-per-task=1 --time=30 \
    --output="$work/train.out" "$work/train.sbatch")
until_true 600 test -e "$run/checkpoints/last.ckpt"
scancel --batch --signal=USR1 "$job"
until_true 900 has_ended "$job"
grep --quiet "interrupted at step" "$work/train.out"
grep --quiet "resuming from $run/checkpoints/last.ckpt" "$work/train.out"
"$python" - "$run" <<'END'
import json, sys
from pathlib import Path
run = Path(sys.argv[1])
steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if "train/loss" in line]
assert steps == sorted(set(steps)), steps
summary = json.loads((run / "summary.json").read_text())
assert summary["epochs"] == 15, summary
END

echo "2. mhc-vision compare --launcher slurm"
cat > "$work/matrix.yaml" <<END
name: tiny
recipes: {digits: [digits]}
arms: {baseline: [connections/baseline], mhc: [connections/mhc]}
seeds: [0]
set: {model.model_args.depth: 1, trainer.max_epochs: 8, trainer.limit_train_batches: 10}
gpus: 0
slurm: {time: 30}
END
compare() { "$python" -m mhc_vision compare "$work/matrix.yaml" --out "$work/$1" "${@:2}"; }
# not in the background of the shell, which would have it ignore SIGINT
"$python" - "$work" <<'END'
import os, re, signal, subprocess, sys, time
from pathlib import Path
work = Path(sys.argv[1])
command = [sys.executable, "-m", "mhc_vision", "compare", work / "matrix.yaml", "--out", work / "jobs", "--launcher", "slurm"]
def half_a_run():
    return [path for path in (work / "jobs").rglob("last.ckpt") if not (path.parents[1] / "summary.json").exists()]
process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
while not half_a_run():
    assert process.poll() is None, process.communicate()
    time.sleep(0.1)
# the time limit's signal, to the whole array
array = re.search(r'"(\d+)_0"', (work / "jobs" / "jobs.json").read_text())[1]
subprocess.run(["scancel", "--signal=USR2", array], check=True)
process.send_signal(signal.SIGINT)
out, err = process.communicate()
assert process.returncode == 130, (out, err)
assert f"2 jobs go on, `scancel {array}` cancels them; go on with" in err, err
END
array=$(sed -n 's/.*"\([0-9]*\)_0".*/\1/p' "$work/jobs/jobs.json")
compare jobs --launcher slurm | tee "$work/compare.log"
grep --quiet "0 jobs submitted, 2 submitted earlier" "$work/compare.log"
grep --quiet "resuming from" "$work"/jobs/digits/*/seed0/train.log
[ "$(sed -n 's/.*array=//p' "$work"/jobs/.jobs/*.sh | wc -l)" = 1 ]
[ ! -e "$work/jobs/jobs.json" ]
compare here --jobs 1
"$python" tests/cluster/same_runs.py "$work/jobs" "$work/here"

echo "3. a cancelled array is submitted again"
compare cancelled --launcher slurm > "$work/cancelled.log" 2>&1 &
until_true 300 test -e "$work/cancelled/jobs.json"
scancel "$(sed -n 's/.*"\([0-9]*\)_0".*/\1/p' "$work/cancelled/jobs.json")"
wait $! && exit 1
grep --quiet "ended before the run did" "$work/cancelled.log"
compare cancelled --launcher slurm
"$python" tests/cluster/same_runs.py "$work/cancelled" "$work/here"
