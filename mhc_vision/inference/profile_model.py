"""What a model costs on this machine, plain beside connected: size, arithmetic, memory and time by batch size."""

import datetime
import gc
import platform
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mhc_vision import kernels
from mhc_vision.checks import check_choice, check_number, check_whole_number
from mhc_vision.inference.load_model import load_model
from mhc_vision.inference.options import InferenceOptions
from mhc_vision.layers import CONNECTIONS
from mhc_vision.models.create import rebuild_classifier, split_options
from mhc_vision.models.describe import describe
from mhc_vision.models.designs import DESIGNS
from mhc_vision.models.instruments.costs import count_parameters, image_macs
from mhc_vision.models.instruments.steps import Step
from mhc_vision.models.instruments.timing import alternate
from mhc_vision.progress import note
from mhc_vision.report.markdown import markdown_table
from mhc_vision.version import versions

PLAIN = "plain"
_CPU_INFO = Path("/proc/cpuinfo")


def profile_model(
    name: str,
    *,
    connection: str | None = None,
    num_streams: int | None = None,
    batch_sizes: Sequence[int] = (1, 8, 32),
    img_size: int | None = None,
    device: str = "auto",
    precision: str = "32",
    train: bool = False,
    compiled: bool = False,
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Measures a model and its twin without or with connections, on noise, with weights as they are initialised.

    Args:
        name: As in `load_model`; of a plain one the twin has the connection, of a connected one the twin is plain.
        connection: Of a plain model's twin, or its residual design; `None` for `mhc`.
        num_streams: The same; `None` for 4.
        batch_sizes: Images per step; one after the other, in this order.
        img_size: Height and width of the images in pixels, in place of the model's own.
        device: As in `InferenceOptions`.
        precision: The same.
        train: Measure training steps (see `Step`) in place of forward passes.
        compiled: Compile both models.
        seconds: How long to time each model at each batch size; at least five steps are timed.

    Returns:
        `model`, `settings`, `machine`, `versions`, `date`, `costs` (for `plain` and the connection: `parameters`,
        `gmacs`), `path` (what `mhc_vision.describe` says of the connected model), `rows` (a dict for each model at each
        batch size: `batch_size`, `model`, `ms` (the median), `iqr_ms`, `images_per_s`, `memory_bytes` (see
        `Step.peak_memory`), `time_ratio` and `memory_ratio` to the plain one), and `out_of_memory`: the batch size that
        did not fit on the GPU, after which nothing is measured, or `None`.

    Raises:
        ValueError: If an argument is out of range, or the model cannot be loaded or has no place for connections.
    """
    for size in batch_sizes:
        check_whole_number("batch_sizes", size, at_least=1)
    check_number("seconds", seconds, at_least=0)
    options = InferenceOptions(device=device, precision=precision)  # type: ignore[arg-type]
    where = options.torch_device()
    if connection is not None:
        check_choice("connection", connection, (*CONNECTIONS, *DESIGNS))
    if num_streams is not None:
        check_whole_number("num_streams", num_streams, at_least=1)
    variants = _variants(name, connection, num_streams, img_size)
    settings = variants[PLAIN]
    shape = (settings["in_chans"], settings["img_size"], settings["img_size"])
    record: dict[str, Any] = {
        "model": name,
        "settings": {
            "img_size": settings["img_size"],
            "precision": precision,
            "mode": "training" if train else "inference",
            "compiled": compiled,
            "connection": {key: value for key, value in list(variants.values())[1].items() if key != "num_classes"},
        },
        "machine": _machine(where),
        "versions": {"python": platform.python_version(), **versions()},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "costs": {variant: _costs(arguments, shape) for variant, arguments in variants.items()},
        "path": "",
        "rows": [],
        "out_of_memory": None,
    }
    on_device = torch.cuda.device(where) if where.type == "cuda" else nullcontext()
    with on_device:
        for size in batch_sizes:
            images = torch.randn(size, *shape, device=where)
            try:
                steps = {
                    variant: _step(arguments, images, train, precision == "bf16", compiled)
                    for variant, arguments in variants.items()
                }
                record["path"] = describe(list(steps.values())[1].model)
                note(f"timing {' and '.join(steps)} with batches of {size}")
                record["rows"] += _rows(steps, size, seconds)
            except torch.OutOfMemoryError:
                record["out_of_memory"] = size
                break
            # the next ones have the memory for themselves
            del steps
            gc.collect()
    return record


def cost_table(record: Mapping[str, Any]) -> str:
    """Markdown of the parameters and multiply-accumulates in a record of `profile_model`."""
    return markdown_table(
        [
            {
                "model": variant,
                "parameters": f"{costs['parameters']['total']:,}",
                "of connections": f"{costs['parameters']['connections']:,}",
                "GMACs per image": f"{costs['gmacs']:.3g}",
            }
            for variant, costs in record["costs"].items()
        ]
    )


def time_table(record: Mapping[str, Any]) -> str:
    """Markdown of the rows in a record of `profile_model`; `-` where memory is not measured."""
    return markdown_table(
        [
            {
                "batch": row["batch_size"],
                "model": row["model"],
                "ms": f"{row['ms']:.2f}",
                "± (IQR)": f"{row['iqr_ms']:.2f}",
                "images/s": f"{row['images_per_s']:.1f}",
                "time ratio": f"{row['time_ratio']:.2f}",
                "memory (MiB)": "-" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:.1f}",
                "memory ratio": "-" if row["memory_ratio"] is None else f"{row['memory_ratio']:.2f}",
            }
            for row in record["rows"]
        ]
    )


def _variants(
    name: str, connection: str | None, num_streams: int | None, img_size: int | None
) -> dict[str, dict[str, Any]]:
    """Arguments of `rebuild_classifier` for the plain model and, by the name of its connection, for the other one."""
    is_stored = Path(name).exists() or ":" in name
    loaded = load_model(name, weights="default" if is_stored else "initial", img_size=img_size, needs_rgb_classes=False)
    settings = loaded.settings
    of_connection, of_timm = split_options(settings["model_args"])
    has = settings["connection"]
    if has is not None:
        for argument, value, own in (
            ("connection", connection, has),
            ("num_streams", num_streams, settings["num_streams"]),
        ):
            if value not in (None, own):
                raise ValueError(f"{argument}: got {value!r} for {name}, which has {own!r}; leave it out")
    connected = {
        **settings,
        "connection": has or connection or "mhc",
        "num_streams": settings["num_streams"] if has else num_streams or 4,
        "model_args": {**of_timm, **of_connection},
    }
    return {
        PLAIN: {**settings, "connection": None, "num_streams": 1, "model_args": of_timm},
        connected["connection"]: connected,
    }


def _costs(arguments: Mapping[str, Any], shape: tuple[int, int, int]) -> dict[str, Any]:
    with torch.device("meta"):
        model = rebuild_classifier(**arguments)
    return {"parameters": count_parameters(model), "gmacs": image_macs(model, shape) / 1e9}


def _step(arguments: Mapping[str, Any], images: torch.Tensor, train: bool, autocast: bool, compiled: bool) -> Step:
    model: nn.Module = rebuild_classifier(**arguments).to(images.device)
    if compiled:
        model.compile()
    return Step(model, images, train=train, autocast=autocast)


def _rows(steps: Mapping[str, Step], batch_size: int, seconds: float) -> list[dict[str, Any]]:
    times = alternate(steps, seconds=seconds)
    memory = {variant: step.peak_memory() for variant, step in steps.items()}
    plain = memory[PLAIN]
    rows = []
    for variant, measured in times.items():
        own = memory[variant]
        rows.append(
            {
                "batch_size": batch_size,
                "model": variant,
                "ms": 1e3 * measured.median,
                "iqr_ms": 1e3 * measured.iqr,
                "images_per_s": batch_size / measured.median,
                "memory_bytes": own,
                "time_ratio": measured.median / times[PLAIN].median,
                "memory_ratio": None if own is None or plain is None else own / plain,
            }
        )
    return rows


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "kernels": kernels.describe(),
    }


def _cpu_name() -> str:
    """As the system calls it; Python knows it on few systems."""
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
