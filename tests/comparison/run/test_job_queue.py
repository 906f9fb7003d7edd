"""Arguments and answers of queues; tests/cluster/run_slurm.sh asks a real one."""

import os
import re

import pytest

from mhc_vision.comparison.run.job_queue import JobQueue, SlurmQueue, slurm_parameters


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder of programs that are found first; `write` puts a shell script there."""

    def write(name, script="exit 0"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return write


def test_arguments_of_slurm_get_the_names_of_submitit():
    given = {"partition": "gpu", "time": 240, "job_name": "vit", "mem": "64GB", "array_parallelism": 16, "qos": "low"}
    parameters = slurm_parameters({**given, "max_num_timeout": 9}, threads=8, gpus=1)
    assert parameters == {
        **{"name": "vit", "timeout_min": 240, "cpus_per_task": 8, "gpus_per_node": 1},
        **{"slurm_partition": "gpu", "slurm_mem": "64GB", "slurm_array_parallelism": 16, "slurm_qos": "low"},
        "slurm_srun_args": ["--cpus-per-task=8"],
    }
    assert slurm_parameters({"time": 1, "cpus_per_task": 4}, threads=1, gpus=1)["cpus_per_task"] == 4
    assert "gpus_per_node" not in slurm_parameters({"time": 1}, threads=1, gpus=0)
    assert "gpus_per_node" not in slurm_parameters({"time": 1, "gres": "gpu:a100:1"}, threads=1, gpus=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"time": 1, "partitoin": "gpu"}, "slurm: got 'partitoin', expected one of account, "),
        ({"time": 1, "partitoin": "gpu"}, "; nearest: partition"),
        ({"time": 1, "slurm_partition": "gpu"}, "; nearest: partition"),
        ({"time": 1, "nodes": 2}, "slurm: got nodes, expected it left out; a run is on one node"),
        ({"partition": "gpu"}, "slurm: got no time, expected the minutes that a job may take"),
        ({"time": "4h"}, "slurm: time: got '4h', expected a whole number from 1"),
        ({"time": 1, "max_num_timeout": -1}, "slurm: max_num_timeout: got -1, expected a whole number from 0"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        JobQueue("local", tmp_path / "jobs", given, 1, 0)
    assert not (tmp_path / "jobs").exists()


def test_a_machine_without_slurm_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="--launcher: got slurm, expected sbatch, squeue, srun on this machine"):
        SlurmQueue(tmp_path / "jobs", {"time": 1}, 1, 0)


def test_slurm_is_asked_for_jobs_that_have_not_ended(tmp_path, programs):
    for name in ("sbatch", "srun"):
        programs(name)
    programs("squeue", "printf '7_0 RUNNING\\n7_1 PENDING\\n8 RUNNING\\n'")
    queue = SlurmQueue(tmp_path / "jobs", {"time": 1}, 1, 0)
    assert queue.states(["7_0", "7_1", "7_2", "9"]) == {"7_0": "RUNNING", "7_1": "PENDING"}
    assert queue.cancel_command(["7_1", "7_0", "9"]) == "scancel 7 9"
    programs("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(OSError, match="squeue: Unable to contact slurm controller"):
        queue.states(["7_0"])


def test_the_script_of_an_array(tmp_path, programs):
    programs("srun")
    programs("squeue")
    programs("sbatch", f'cp "$1" {tmp_path}/script; echo Submitted batch job 7')
    given = {"time": 240, "partition": "gpu", "array_parallelism": 2, "mem": "64GB"}
    queue = SlurmQueue(tmp_path / "jobs", given, 8, 1)
    assert [job.job_id for job in queue.submit([print, print, print])] == ["7_0", "7_1", "7_2"]
    script = (tmp_path / "script").read_text()
    for argument in ("array=0-2%2", "cpus-per-task=8", "gpus-per-node=1", "mem=64GB", "partition=gpu", "time=240"):
        assert f"#SBATCH --{argument}\n" in script
    # since SLURM 22.05 a step does not inherit it
    assert "--cpus-per-task=8 " in script.partition("\nsrun ")[2]
