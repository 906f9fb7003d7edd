"""What `first_gpu_run.py` has measured, beside what `roofline.py` predicted: shared by the two."""

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# measured over predicted, above which a result falls short: the model of time is good to 30 %, counts are exact but for
# branches and for what L2 does
AT_MOST = {
    "us": 1.3,
    "instructions a token": 1.1,
    "bytes a token": 1.15,
    "added to plain": 1.3,
    "of the full batch": 1.6,
}


def load_records(folder: Path) -> list[Row]:
    """The records of all steps, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def compare(predictions: dict[str, Any], records: list[Row]) -> list[Row]:
    """One row per result that was predicted: what, unit, predicted, measured, ratio, and whether it falls short."""
    compared = []
    for record in records:
        name = gpu_of(predictions, record["device"])
        for row in record["rows"] if name else []:
            if row.get("op") == "boundary":
                compared += _boundary(predictions, name, row, record["rows"])
            elif "instructions" in row:
                compared += _kernel(predictions, name, row)
            elif row.get("mode") == "training" and not row["compiled"] and row["connection"] == "mhc-4":
                compared += _model(predictions, name, row)
    return compared + _launch_bound([row for record in records for row in record["rows"]])


def gpu_of(predictions: dict[str, Any], device: str) -> str | None:
    """Which of the predicted GPUs a device is; cards for PCIe are others, with lower clocks and fewer SMs."""
    names = {row["gpu"] for row in predictions["boundaries"]}
    return next((name for name in names if name in device and "PCIe" not in device), None)


def shortfalls(rows: list[Row]) -> list[str]:
    """A line for each that falls short."""
    return [
        f"{row['what']}: {row['measured']:.4g} {row['unit']}, predicted {row['predicted']:.4g}, {row['ratio']:.2f}x"
        for row in rows
        if row["short"]
    ]


def _row(what: str, unit: str, predicted: float, measured: float) -> Row:
    ratio = measured / predicted
    row = {"what": what, "unit": unit, "predicted": predicted, "measured": measured, "ratio": ratio}
    return row | {"short": ratio > AT_MOST[unit]}


def _find(rows: list[Row], **keys: Any) -> Row | None:
    return next((row for row in rows if all(row[key] == value for key, value in keys.items())), None)


def _boundary(predictions: dict[str, Any], name: str, row: Row, rows: list[Row]) -> list[Row]:
    """Both passes; the backward's row stands for the two."""
    found = _find(predictions["boundaries"], gpu=name, C=row["C"], dtype="bf16")
    if found is None or row["pass"] == "forward":
        return []
    both = [one["ms"] for one in rows if (one["op"], one["C"], one["tokens"]) == (row["op"], row["C"], row["tokens"])]
    predicted = found["predicted_us"] * row["tokens"] / predictions["num_tokens"]
    return [_row(f"boundary, C = {row['C']}, {row['tokens']} tokens", "us", predicted, 1e3 * sum(both))]


def _kernel(predictions: dict[str, Any], name: str, row: Row) -> list[Row]:
    found = _find(predictions["kernels"], gpu=name, C=row["C"], dtype="bf16", kernel=row["kernel"])
    if found is None:
        return []
    tokens = row["tokens"]
    what = f"{row['kernel']}, C = {row['C']}"
    rows = [_row(what, "us", found["predicted_us"] * tokens / predictions["num_tokens"], row["us"])]
    if found["bytes_per_token"]:
        rows.append(_row(what, "bytes a token", found["bytes_per_token"], row["dram_bytes"] / tokens))
    if "instructions_per_token" in found:
        counted = row["instructions"] / tokens
        rows.append(_row(what, "instructions a token", found["instructions_per_token"], counted))
    return rows


def _model(predictions: dict[str, Any], name: str, row: Row) -> list[Row]:
    """What connections add to the plain step; the prediction is for one batch size."""
    # unless told otherwise, they follow timm's residual stream, which autocast leaves in fp32
    streams = "fp32" if (row["precision"], row["stream_dtype"]) == ("autocast", "model") else "bf16"
    found = _find(predictions["models"], gpu=name, model=row["model"], streams=streams, batch_size=row["batch_size"])
    if found is None:
        return []
    what = f"{row['model']}, mhc-4, {row['precision']}, {streams} streams, batch {row['batch_size']}"
    return [_row(what, "added to plain", found["predicted_ratio"] - 1, row["ratio_to_plain"] - 1)]


def _launch_bound(rows: list[Row]) -> list[Row]:
    """Half the batch takes half the time, unless a step waits for its launches."""
    keys = ("model", "connection", "mode", "compiled", "precision", "stream_dtype")
    steps = [row for row in rows if "ratio_to_plain" in row]
    compared = []
    for row in steps:
        whole = _find(steps, **{key: row[key] for key in keys}, batch_size=2 * row["batch_size"])
        if whole is not None:
            what = f"{row['model']}, {row['connection']}, {row['mode']}, batch {row['batch_size']}"
            compared.append(_row(what, "of the full batch", 0.5, row["ms"] / whole["ms"]))
    return compared
