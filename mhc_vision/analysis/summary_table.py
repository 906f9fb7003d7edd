"""The most important figures of an analysis as a table, each with what it means."""

import math
from typing import Any

import numpy as np

from mhc_vision.contribution import NEGLIGIBLE, Contribution
from mhc_vision.report.travel import UNMOVED

_SAME_GAIN = 0.01
_SAME_SHARE = 0.1
_COPIES = 0.05
_FORGOTTEN = 0.1

VERDICTS = (
    f"Verdicts: maps have hardly moved where their mean absolute change since the start is below {UNMOVED}; a gain is "
    f"as plain within {_SAME_GAIN} of 1; columns sum to 1 where no |log column sum| is above {_SAME_GAIN}; a share is "
    f"as plain within {100 * _SAME_SHARE:.0f} % of the plain one; streams are copies where their effective rank is "
    f"below {1 + _COPIES}, and one dominates whose share is nearer to 1 than to 1/n; a stack "
    f"forgets where less than {100 * _FORGOTTEN:.0f} % of a difference survives; a model is a plain one where the loss "
    f"with the maps set back is within {NEGLIGIBLE}, or within 2 standard errors, of its own."
)
"""Thresholds of the verdicts, in words."""


def summary_rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """One row per measure: `measure`, `verdict`, `value` and `plain residual` (what such a network has).

    Args:
        record: of `measure_model`.

    Returns:
        The rows; a largest |log column sum| is `nan` if any column sum is negative, as no number then tells how large.
    """
    rows = [*_contribution_rows(record["contribution"]), *_travel_rows(record["travel"])]
    rows += [*_gain_rows(record["gains"]), *_memory_rows(record["memory"]), *_matrix_rows(record)]
    rows += _stream_rows(record)
    return [
        {"measure": measure, "verdict": verdict, "value": value, "plain residual": plain}
        for measure, value, plain, verdict in rows
    ]


_Row = tuple[str, str, str, str]


def _contribution_rows(measured: dict[str, float] | None) -> list[_Row]:
    if measured is None:
        return []
    contribution = Contribution(**measured)
    return [("loss with the maps set back, minus loss", contribution.figures, "0", contribution.words)]


def _memory_rows(memory: dict[str, list[float]] | None) -> list[_Row]:
    if memory is None:
        return []
    now, start = memory["now"][0], memory["start"][0]
    verdict = "not finite" if not math.isfinite(now) else "forgets" if now < _FORGOTTEN else "remembers"
    measure = "part of a difference between streams that survives the stack"
    return [(measure, f"{100 * now:.3g} %", "-", f"{verdict}; {100 * start:.3g} % at the start")]


def _travel_rows(travel: dict[str, Any] | None) -> list[_Row]:
    if travel is None:
        return []
    means = travel["mean"]
    largest = _largest(list(means.values()))
    rows = [
        (
            "largest mean change of a kind of map since the start",
            f"{largest:.4f}",
            "0",
            f"connections {_moved(largest)}",
        )
    ]
    return rows + [(f"mean change of {kind}", f"{value:.4f}", "0", _moved(value)) for kind, value in means.items()]


def _moved(change: float) -> str:
    if not math.isfinite(change):
        return "not finite"
    return f"have hardly moved (below {UNMOVED})" if change < UNMOVED else "have moved"


def _gain_rows(gains: dict[str, list[float]]) -> list[_Row]:
    rows = []
    for key, of in (("", "Amax gain of a branch"), ("composite_", "composite Amax gain")):
        for direction in ("forward", "backward"):
            gain = _largest(gains[key + direction])
            rows.append((f"largest {of}, {direction}", f"{gain:.6g}", "1", _gain_verdict(gain)))
    for key, of in (("column_error", "a branch"), ("composite_column_error", "a product")):
        error = _largest(gains[key])
        # also where it is NaN
        verdict = "columns sum to 1" if error <= _SAME_GAIN else "columns do not sum to 1"
        rows.append((f"largest |log column sum| of {of}", f"{error:.3g}", "0", verdict))
    return rows


def _gain_verdict(gain: float) -> str:
    if not math.isfinite(gain):
        return "not finite"
    if abs(gain - 1) <= _SAME_GAIN:
        return "as plain"
    return "amplifies" if gain > 1 else "attenuates"


def _matrix_rows(record: dict[str, Any]) -> list[_Row]:
    measures = record["connection_matrix"]["measures"]
    pairs = len(measures["parallel_pairs"])
    rows = [
        _share_row("weight of the input embedding in the output", measures["embedding_share"],
                   measures["plain_embedding_share"]),
        ("pairs of parallel branches", str(pairs), "0", f"of {len(measures['relative_weights'])}" if pairs else "none"),
    ]  # fmt: skip
    shape = measures["lambda_shape"]
    if shape is not None:
        for key, text in (("near", "two latest sources"), ("early", "embedding and first branch")):
            rows.append(_share_row(f"Λ shape: weight on the {text}", shape[key], shape["plain"][key]))
    return rows


def _share_row(measure: str, value: float, plain: float) -> _Row:
    beside = value / plain - 1
    verdict = "as plain" if abs(beside) <= _SAME_SHARE else "more than plain" if beside > 0 else "less than plain"
    return measure, f"{100 * value:.1f} %", f"{100 * plain:.1f} %", verdict


def _stream_rows(record: dict[str, Any]) -> list[_Row]:
    medians = [entry["median"] for entry in record["similarity"]]
    rows = [("cosine of adjacent branch inputs, mean of medians", f"{sum(medians) / len(medians):.3f}", "-", "-")]
    streams, n = record["streams"], record["model"]["num_streams"]
    if streams["effective_rank"] is not None:
        rank, cosine = (streams[key][-1]["median"] for key in ("effective_rank", "cosine"))
        verdict = "streams are copies" if rank < 1 + _COPIES else f"streams differ: at most {n}"
        rows.append(("effective rank of the streams at the read-out, median", f"{rank:.3f}", "1", verdict))
        share = max(streams["share"][-1])
        dominates = "one stream dominates" if share > (1 + 1 / n) / 2 else f"1/n is {100 / n:.0f} %"
        rows.append(("share of the dominant stream at the read-out", f"{100 * share:.1f} %", "100 %", dominates))
        rows.append((f"cosine between the {n} streams at the read-out, median", f"{cosine:.3f}", "-", "-"))
    return rows


def _largest(values: list[float]) -> float:
    # max() passes over a NaN that does not come first
    return float(np.max(values))
