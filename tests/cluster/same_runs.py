"""Two directories of a comparison hold the same runs, apart from times: `python same_runs.py ONE OTHER`."""

import json
import re
import sys
from pathlib import Path

# what is measured of a machine, not of a run
_TIMES = re.compile(r"perf/|_s$|seconds|memory|time")


def logged(run_dir: Path) -> list[dict[str, float]]:
    """What a run logged, without times."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [{key: value for key, value in json.loads(line).items() if not _TIMES.search(key)} for line in lines]
    return [record for record in records if set(record) - {"step", "epoch"}]


def differing_runs(one: Path, other: Path) -> list[str]:
    """Names of runs that are not the same, to the bit, or in one of the directories only."""
    names = {run.relative_to(root).as_posix() for root in (one, other) for run in root.glob("*/*/seed*")}
    assert names
    complete = {name for name in names if all((root / name / "summary.json").exists() for root in (one, other))}
    return sorted(name for name in names if name not in complete or logged(one / name) != logged(other / name))


if __name__ == "__main__":
    different = differing_runs(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.exit(f"runs that differ: {', '.join(different)}" if different else 0)
