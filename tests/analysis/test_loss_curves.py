import builtins
import json

import pytest

from mhc_vision.report.curves import plot_loss_curves, plot_seed_bands, smooth
from mhc_vision.report.line_names import spread_apart


def _write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_smoothing_is_a_trailing_mean():
    assert smooth([2.0, 4.0, 6.0, 8.0], 2) == [2.0, 3.0, 5.0, 7.0]


def test_the_figure_is_a_png_and_an_svg_that_names_its_runs_and_units(tmp_path):
    path = _write(tmp_path / "metrics.jsonl", [{"step": step, "train/loss": 1 / (step + 1)} for step in range(5)])
    png, svg = plot_loss_curves({"baseline": path, "mhc": path}, tmp_path / "figures" / "loss")
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    for words in ("baseline", "mhc", "optimiser step", "training loss (nats)"):
        assert words in text
    assert sorted(entry.name for entry in png.parent.iterdir()) == ["loss.png", "loss.svg"]


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(ImportError, match=r"mhc-vision\[plots\]"):
        plot_loss_curves({}, tmp_path / "loss")


def test_bands_name_their_arms_and_keep_the_colour_of_one_without_curves(tmp_path):
    seeds = [([0, 1, 2], [1.0, 0.5, 0.2]), ([0, 1], [1.2, 0.4])]
    both = plot_seed_bands({"baseline": seeds, "mhc": seeds[:1]}, tmp_path / "both", label="loss (nats)")[1].read_text()
    for words in ("baseline", "mhc", "optimiser step", "loss (nats)"):
        assert words in both
    # the baseline's blue is not given to the next arm
    gap = plot_seed_bands({"baseline": [], "mhc": seeds}, tmp_path / "gap", label="gap", zero_line=True)[1].read_text()
    assert "#0072b2" in both
    assert "#0072b2" not in gap
    assert "#d55e00" in gap


def test_values_that_are_not_finite_are_gaps_that_the_legend_counts(tmp_path):
    records = [{"step": step, "train/loss": value} for step, value in enumerate([1.0, "nan", 2.0, "inf"])]
    path = _write(tmp_path / "metrics.jsonl", records)
    assert "run (2 of 4 not finite)" in plot_loss_curves({"run": path}, tmp_path / "one")[1].read_text()
    seeds = [([0, 1], [1.0, 2.0]), ([0, 1], [1.0, float("nan")]), ([0, 1], [3.0, float("inf")])]
    figure = plot_seed_bands({"mhc": seeds}, tmp_path / "bands", label="loss")[1].read_text()
    assert "mhc (2 of 3 not finite)" in figure


def test_names_keep_their_distance_their_order_and_the_axes():
    assert spread_apart([0.2, 0.8], 0.1, 1.0) == [0.2, 0.8]
    # in the middle of where they were
    assert spread_apart([0.4, 0.42], 0.1, 1.0) == pytest.approx([0.36, 0.46])
    # pushed into the axes, and the next one on
    assert spread_apart([0.0, 0.0, 0.15], 0.1, 1.0) == pytest.approx([0.0, 0.1, 0.2])
    assert spread_apart([0.99, 1.0], 0.1, 1.0) == pytest.approx([0.9, 1.0])


def test_a_steep_start_does_not_flatten_the_rest(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mhc_vision.report.curves.name_lines", lambda axes, lines: drawn.append(axes.get_ylim()))
    seeds = [(list(range(100)), [50.0, *[1.0 + 0.001 * step for step in range(99)]])] * 2
    plot_seed_bands({"mhc": seeds}, tmp_path / "bands", label="loss")
    ((low, high),) = drawn
    assert 1.0 < low < high < 1.2
