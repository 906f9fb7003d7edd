"""What can be named on a command line: models, connections, datasets and options, without importing any of them.

`catalog.json` beside this file is made by `python -m mhc_vision.make_catalog`, to be run after one of them is added; a
test compares the two.
"""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

CATALOG = Path(__file__).parent / "catalog.json"


class Catalog(NamedTuple):
    """The names.

    Attributes:
        models: What each registered architecture is, before its name gets a connection.
        connections: What each type of connection is.
        designs: What each residual design to compare them with is.
        datasets: What each dataset of `DownstreamDataModule` is.
        options: Of `train`, `finetune` and `segmentation` (`finetune` with a decoder): the names of options outside
            `data`, such as `model.lr`.
        data_options: The options of each data module, such as `batch_size`.
    """

    models: dict[str, str]
    connections: dict[str, str]
    designs: dict[str, str]
    datasets: dict[str, str]
    options: dict[str, list[str]]
    data_options: dict[str, list[str]]


@cache
def catalog() -> Catalog:
    """The names that the package has."""
    return Catalog(**json.loads(CATALOG.read_text(encoding="utf-8")))
