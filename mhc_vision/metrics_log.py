"""`metrics.jsonl`, the log of a run, as readers see it."""

import os

from mhc_vision.json_files import json_object


def read_metric(path: str | os.PathLike[str], key: str) -> tuple[list[int], list[float]]:
    """Reads one metric from `metrics.jsonl`.

    A run resumed from an older checkpoint logs some steps again; of those only the later values count.

    Returns:
        Steps, rising, and the values there.

    Raises:
        ValueError: If a line is no JSON object, or the metric was never logged.
    """
    steps: list[int] = []
    values: list[float] = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            record = json_object("log", line, f"{path}, line {number}", needed=("step",))
            if key not in record:
                continue
            while steps and steps[-1] >= record["step"]:
                steps.pop()
                values.pop()
            steps.append(record["step"])
            values.append(float(record[key]))
    if not steps:
        raise ValueError(f"metric: got {key!r}, expected one that {path} has")
    return steps, values
