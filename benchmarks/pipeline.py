"""What pipeline parallelism costs and hides: bubbles and transfers of plain and hyper-connected models, simulated.

    python benchmarks/pipeline.py                                  # ViT-B, this machine's times and link
    python benchmarks/pipeline.py --model vit_large_patch16_224 --streams 1 4 --microbatches 4 --link 50
    python benchmarks/pipeline.py --check                          # against real processes

Times of a block are measured: of a training step at two depths, one minus the other, with all gradients and with those
of the inputs alone; a process has its share of the model's depth. The link is measured between two processes of this
machine (gloo, or NCCL on GPUs), or given. From these, `pipeline_timeline.py` plays PyTorch's schedules for 2 to 16
processes. `bubble` is the share of a step in which a process has nothing to do, waits for transfers included; `hidden`
the share of the transfers' time that nobody waits for; `step` is over that of a model that is spread without bubbles or
transfers. `--check` runs the schedules with 2 and 4 processes (gloo) whose passes take a set time, and compares order
and bubbles.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from device_timing import environment
from pipeline_timeline import (
    BACKWARD,
    FORWARD,
    INPUTS,
    WEIGHTS,
    Action,
    Seconds,
    Timeline,
    actions_of,
    simulate,
    stages_of,
)
from torch import Tensor, multiprocessing, nn
from torch.distributed.pipelining import PipelineStage
from torch.testing._internal.distributed.fake_pg import FakeStore

from mhc_vision.atomic_files import json_text, replace_text
from mhc_vision.models.instruments.timing import alternate
from mhc_vision.training.pipeline.pipeline import SCHEDULES, num_stages_of

Row = dict[str, Any]

DEPTHS = 2, 4
MICROBATCHES = 8  # of the check


def block_seconds(model: str, streams: int, batch_size: int, device: torch.device, rounds: int) -> Seconds:
    """Of one block with mHC, or of a plain one where `streams` is 1: the difference between two depths."""
    name, options = (model, {}) if streams == 1 else (f"{model}_mhc", {"num_streams": streams})
    models = {depth: timm.create_model(name, depth=depth, **options).to(device) for depth in DEPTHS}
    images = torch.randn(batch_size, *models[DEPTHS[0]].default_cfg["input_size"], device=device, requires_grad=True)
    passes: dict[str, Callable[[nn.Module, Tensor], None]] = {
        FORWARD: _forward,
        INPUTS: partial(_forward_and_backward, weights=False),
        BACKWARD: partial(_forward_and_backward, weights=True),
    }
    calls = {f"{kind}{depth}": partial(run, models[depth], images) for kind, run in passes.items() for depth in DEPTHS}
    times = {name: measured.median for name, measured in alternate(calls, seconds=0, least_rounds=rounds).items()}
    shallow, deep = DEPTHS
    forward, inputs, whole = (
        (times[f"{kind}{deep}"] - times[f"{kind}{shallow}"]) / (deep - shallow) for kind in passes
    )
    return Seconds(forward, inputs - forward, whole - inputs)


def _forward(model: nn.Module, images: Tensor) -> None:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        model(images)


def _forward_and_backward(model: nn.Module, images: Tensor, *, weights: bool) -> None:
    model.requires_grad_(weights)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        logits = model(images)
    logits.sum().backward()
    model.zero_grad(set_to_none=True)
    images.grad = None


def transfer_bytes(model: str, streams: int, batch_size: int, bytes_per_number: int) -> int:
    """Of what a process sends the next: n merged streams of C numbers per token. Gradients come back in as many."""
    with torch.device("meta"):
        plain = timm.create_model(model)
        tokens = plain.forward_features(torch.empty(1, *plain.default_cfg["input_size"])).shape[1]
    return batch_size * tokens * streams * plain.embed_dim * bytes_per_number


def link_speed(size: int, device: torch.device) -> float:
    """Bytes a second from one process of this machine to another, of messages of `size` bytes."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_send_and_receive, (size, device.type, folder), nprocs=2)
        return float(Path(folder, "bytes_per_second").read_text())


def _send_and_receive(rank: int, size: int, device: str, folder: str) -> None:
    _join(rank, 2, folder, "nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(rank)
    message = torch.zeros(size, dtype=torch.uint8, device=device)
    answer = torch.zeros(1, device=device)
    taken = []
    for _ in range(6):
        began = time.perf_counter()
        (dist.send, dist.recv)[rank](message, 1 - rank)
        (dist.recv, dist.send)[rank](answer, 1 - rank)
        answer.item()
        taken.append(time.perf_counter() - began)
    if rank == 0:
        # the first one connects
        Path(folder, "bytes_per_second").write_text(str(size / min(taken[1:])))
    dist.destroy_process_group()


def _join(rank: int, processes: int, folder: str, backend: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(backend, f"file://{folder}/store", rank=rank, world_size=processes)


def schedules_of(processes: int, microbatches: int) -> dict[str, dict[int, list[Action]]]:
    """What each process does, by schedule."""
    dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        return {name: actions_of(name, processes, microbatches) for name in SCHEDULES}
    finally:
        dist.destroy_process_group()


def tabulate(args: argparse.Namespace) -> list[Row]:
    """A row for each number of streams, number of processes and schedule."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(args.threads)
    depth = len(timm.create_model(args.model, device="meta").blocks)
    rows = []
    for streams in args.streams:
        block = block_seconds(args.model, streams, args.batch_size, device, args.rounds)
        size = transfer_bytes(args.model, streams, args.batch_size, 2 if device.type == "cuda" else 4)
        speed = args.link * 1e9 if args.link else link_speed(size, device)
        for processes in args.processes:
            blocks = depth / processes
            passes = (blocks * part for part in (block.forward, block.inputs, block.weights))
            seconds = Seconds(*passes, transfer=args.latency * 1e-6 + size / speed)
            microbatches = args.microbatches * processes
            least = microbatches * (seconds.forward + seconds.inputs + seconds.weights)
            for name, actions in schedules_of(processes, microbatches).items():
                step = simulate(actions, seconds)
                row = {
                    "streams": streams,
                    "processes": processes,
                    "schedule": name,
                    "microbatches": microbatches,
                    "forward_ms": 1e3 * seconds.forward,
                    "inputs_ms": 1e3 * seconds.inputs,
                    "weights_ms": 1e3 * seconds.weights,
                    "transfer_ms": 1e3 * seconds.transfer,
                    "sent_mb": step.transfers * size / 1e6,
                    "bubble": step.bubble,
                    "hidden": step.hidden,
                    "step": step.seconds / least,
                }
                rows.append(row)
    return rows


def check(seconds: Seconds) -> list[Row]:
    """The schedules of 2 and 4 real processes against the simulation: order of actions, bubbles and time of a step."""
    rows = []
    for processes in (2, 4):
        for name, actions in schedules_of(processes, MICROBATCHES).items():
            simulated, real = simulate(actions, seconds), run_schedule(name, processes, seconds)
            row = {
                "processes": processes,
                "schedule": name,
                "same_order": real.order() == simulated.order(),
                "simulated_bubble": simulated.bubble,
                "real_bubble": real.bubble,
                "real_over_simulated_step": real.seconds / simulated.seconds,
            }
            rows.append(row)
    return rows


def run_schedule(name: str, processes: int, seconds: Seconds) -> Timeline:
    """A step of real processes (gloo), in which each pass sleeps for its time."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_run_schedule, (processes, name, seconds, folder), nprocs=processes)
        records = {rank: json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(processes)}
    return Timeline({rank: [(Action(*action), *span) for action, *span in record] for rank, record in records.items()})


def _run_schedule(rank: int, processes: int, name: str, seconds: Seconds, folder: str) -> None:
    """One process of `run_schedule`; writes what it did when."""
    _join(rank, processes, folder, "gloo")
    mine = stages_of(name, processes)[rank]
    number = num_stages_of(name, processes)
    record: list[tuple[Action, float, float]] = []
    stages = []
    for index in mine:
        stage = PipelineStage(nn.Linear(1, 1), index, number, torch.device("cpu"))
        _take_time(stage, index, seconds, 1 / len(mine), record)
        stages.append(stage)
    schedule = SCHEDULES[name](stages[0] if name == "1F1B" else stages, MICROBATCHES, loss_fn=_mean_of)
    batch = torch.zeros(MICROBATCHES, 1)
    inputs = (batch,) if 0 in mine else ()
    target = {"target": batch} if number - 1 in mine else {}
    for _ in range(2):
        # the second time all is connected
        dist.barrier()
        record.clear()
        schedule.step(*inputs, **target)
    replace_text(Path(folder, f"{rank}.json"), json_text(record))
    dist.destroy_process_group()


def _take_time(
    stage: PipelineStage, index: int, seconds: Seconds, share: float, record: list[tuple[Action, float, float]]
) -> None:
    """Makes the passes of a stage last as long as they should, and records them."""

    def timed(run: Callable[..., Any], kind_of: Callable[..., str]) -> Callable[..., Any]:
        def lasting(microbatch: int, *args: Any, **options: Any) -> Any:
            action = Action(index, kind_of(**options), microbatch)
            start = time.monotonic()
            result = run(microbatch, *args, **options)
            time.sleep(max(0.0, start + share * seconds.of(action.kind) - time.monotonic()))
            record.append((action, start, time.monotonic()))
            return result

        return lasting

    def backward(full_backward: bool = True, **_: Any) -> str:
        return BACKWARD if full_backward else INPUTS

    stage.forward_one_chunk = timed(stage.forward_one_chunk, lambda **_: FORWARD)
    stage.backward_one_chunk = timed(stage.backward_one_chunk, backward)
    stage.backward_weight_one_chunk = timed(stage.backward_weight_one_chunk, lambda **_: WEIGHTS)


def _mean_of(output: Tensor, _: Tensor) -> Tensor:
    return output.mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4], help="1 is the plain model")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--batch-size", type=int, default=8, help="images of a microbatch")
    parser.add_argument("--microbatches", type=int, default=2, help="times the number of processes")
    parser.add_argument("--link", type=float, help="GB/s from a process to another; default: measured")
    parser.add_argument("--latency", type=float, default=0.0, help="µs of each transfer, where --link is given")
    parser.add_argument("--rounds", type=int, default=7, help="of the timed steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="compare with real processes instead")
    parser.add_argument("--pass-seconds", type=float, default=0.2, help="of each pass, with --check")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    rows = check(Seconds(*3 * [args.pass_seconds])) if args.check else tabulate(args)
    for row in rows:
        print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}))
    if args.json:
        record = {**environment(), "timm": timm.__version__, "rows": rows}
        replace_text(args.json, json_text(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
