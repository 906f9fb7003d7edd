"""What a task says of each arm in one sentence: at equal steps, at equal time, and what its seeds could have shown."""

from collections.abc import Mapping, Sequence

from mhc_vision.comparison.report.verdicts import Verdict

STEPS, TIME = "equal steps", "equal time"
_AHEAD, _BEHIND, _SAME, _UNTESTED = "ahead", "behind", "no difference", "not tested"


def conclusions(at_steps: Sequence[Verdict], at_time: Sequence[Verdict]) -> list[str]:
    """A sentence for each arm.

    Args:
        at_steps: Arms beside the baseline.
        at_time: Arms beside the baseline with their time; not all arms need to be there.
    """
    times = {verdict.arm: verdict for verdict in at_time}
    return [f"`{verdict.arm}`: {_sentence(verdict, times.get(verdict.arm))}." for verdict in at_steps]


def _sentence(at_steps: Verdict, at_time: Verdict | None) -> str:
    verdicts = {STEPS: at_steps} if at_time is None else {STEPS: at_steps, TIME: at_time}
    outcomes = {where: _outcome(verdict) for where, verdict in verdicts.items()}
    if at_time is None:
        said = outcomes[STEPS]
    elif outcomes[STEPS] == outcomes[TIME]:
        said = f"{outcomes[STEPS]} at {STEPS} and at {TIME}"
    else:
        said = _two(outcomes)
    power = _power({where: verdict for where, verdict in verdicts.items() if outcomes[where] == _SAME}, len(verdicts))
    return said + (f"; {power}" if power else "")


def _two(outcomes: Mapping[str, str]) -> str:
    found = [where for where, outcome in outcomes.items() if outcome in (_AHEAD, _BEHIND)]
    others = [where for where, outcome in outcomes.items() if outcome == _SAME]
    if found and others:
        return f"{outcomes[found[0]]} at {found[0]} only"
    return ", ".join(f"{outcome} at {where}" for where, outcome in outcomes.items())


def _power(verdicts: Mapping[str, Verdict], num_asked: int) -> str:
    """What the seeds could have shown where they showed nothing."""
    parts = []
    for where, verdict in verdicts.items():
        assert verdict.decision is not None
        shown = f"{verdict.decision.detectable:.{verdict.metric.digits}f} points"
        parts.append(shown if num_asked == 1 else f"{shown} at {where}")
    if not parts:
        return ""
    count = min(len(verdict.differences) for verdict in verdicts.values())
    return f"these {count} seeds could have shown {' and '.join(parts)}"


def _outcome(verdict: Verdict) -> str:
    if verdict.decision is None:
        return _UNTESTED
    if not verdict.decision.is_different:
        return _SAME
    return _AHEAD if verdict.mean > 0 else _BEHIND
