"""The most important figures of an analysis as a table."""

from typing import Any

import numpy as np


def summary_rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """One row per measure: `measure`, `value` and `plain residual`, the value that a plain residual network has.

    Args:
        record: of `measure_model`.

    Returns:
        The rows; a largest |log column sum| is `nan` if any column sum is negative, as no number then tells how large.
    """
    gains, streams = record["gains"], record["streams"]
    measures = record["connection_matrix"]["measures"]
    rows = [
        ("largest Amax gain of a branch, forward", f"{_largest(gains['forward']):.6g}", "1"),
        ("largest Amax gain of a branch, backward", f"{_largest(gains['backward']):.6g}", "1"),
        ("largest composite Amax gain, forward", f"{_largest(gains['composite_forward']):.6g}", "1"),
        ("largest composite Amax gain, backward", f"{_largest(gains['composite_backward']):.6g}", "1"),
        ("largest |log column sum| of a branch", f"{_largest(gains['column_error']):.3g}", "0"),
        ("largest |log column sum| of a product", f"{_largest(gains['composite_column_error']):.3g}", "0"),
        (
            "weight of the input embedding in the output",
            f"{100 * measures['embedding_share']:.1f} %",
            f"{100 * measures['plain_embedding_share']:.1f} %",
        ),
        ("pairs of parallel branches", str(len(measures["parallel_pairs"])), "0"),
    ]
    shape = measures["lambda_shape"]
    if shape is not None:
        for key, text in (("near", "two latest sources"), ("early", "embedding and first branch")):
            rows.append(
                (f"Λ shape: weight on the {text}", f"{100 * shape[key]:.1f} %", f"{100 * shape['plain'][key]:.1f} %")
            )
    medians = [entry["median"] for entry in record["similarity"]]
    rows.append(("cosine of adjacent branch inputs, mean of medians", f"{sum(medians) / len(medians):.3f}", "-"))
    if streams["effective_rank"] is not None:
        n = record["model"]["num_streams"]
        rows.append(("effective rank of the streams at the read-out, median", _last(streams, "effective_rank"), "1"))
        rows.append((f"cosine between the {n} streams at the read-out, median", _last(streams, "cosine"), "-"))
    return [{"measure": measure, "value": value, "plain residual": plain} for measure, value, plain in rows]


def _largest(values: list[float]) -> float:
    # max() passes over a NaN that does not come first
    return float(np.max(values))


def _last(streams: dict[str, Any], key: str) -> str:
    return f"{streams[key][-1]['median']:.3f}"
