"""What quality costs, in a report: a table, and curves over seconds and over training FLOPs."""

from pathlib import Path

from mhc_vision.comparison.report.drawing import band_figure, can_draw
from mhc_vision.comparison.report.price import over_price, price_table
from mhc_vision.comparison.report.results import TaskResults
from mhc_vision.comparison.run.metrics import VALIDATION_LOSS, VALIDATION_MEAN_IOU, VALIDATION_TOP1
from mhc_vision.report.pages import Block, Heading, Paragraph, Table

_PRICE = (
    "Seconds and FLOPs are of training steps alone: data loading, validation and checkpoints are left out. Training "
    "FLOPs are 2 x 3 x GMACs x images: two operations per multiply-accumulate, and a backward pass that costs two "
    "forward ones. {source} Where the learning rate falls to the end, compare the ends of the curves only: a run that "
    "was meant to be shorter is better there than a longer one on its way."
)
_MEASURED = (
    "Step times were measured side by side before the runs, in turns in one process on {device}, and are in "
    "`step_times.json`."
)
_LOGGED = "Step times are what the runs logged, which shared the machine: read them as rough."
_OVERS = (
    ("seconds", "seconds of training steps", lambda price: price.seconds),
    ("flops", "training FLOPs", lambda price: price.flops),
)


def price_blocks(results: TaskResults, directory: Path) -> list[Block]:
    """A section on the price of a task's arms; nothing where no price is known."""
    rows = price_table(results)
    if not rows:
        return []
    devices = ", ".join(sorted({record.summary["device"] for record in results.finished}))
    source = _MEASURED.format(device=devices) if results.step_times else _LOGGED
    blocks: list[Block] = [Heading(3, "Price"), Paragraph(_PRICE.format(source=source)), Table(rows)]
    if not can_draw():
        return blocks
    for metric in (VALIDATION_MEAN_IOU, VALIDATION_TOP1, VALIDATION_LOSS):
        for name, over, price_of in _OVERS:
            curves = over_price(results, metric, price_of) if metric in results.curved_metrics else {}
            if any(curves.values()):
                caption = f"{results.task}: {metric.label} over {over}, mean over seeds, band from lowest to highest"
                key = f"{metric.key}-over-{name}"
                blocks.append(band_figure(results.task, directory, key, curves, metric.axis_label, caption, over=over))
    return blocks
