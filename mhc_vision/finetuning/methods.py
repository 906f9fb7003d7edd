"""Fine-tuning methods: which parameters each one trains."""

from typing import Literal, get_args

from torch import nn

from mhc_vision.checks import check_choice
from mhc_vision.layers import connection_parameters
from mhc_vision.models.lora import LoraOptions, add_adapters

Method = Literal["full", "lora", "connections", "linear", "knn"]
METHODS: tuple[str, ...] = get_args(Method)
PROBES = ("linear", "knn")
"""Those that train nothing of the backbone, and so see each image once."""


def choose_parameters(model: nn.Module, method: Method, lora: LoraOptions) -> None:
    """Freezes, in place, what a method does not train; adds adapters for `lora`.

    - `full`: all learn;
    - `lora`: adapters, head and connections. With frozen connections, a plain model that was connected would stay the
      plain model;
    - `connections`: head and connections;
    - `linear`: the head; `knn`: nothing.

    Args:
        model: A timm classifier.
        method: One of the above.
        lora: Of the adapters.

    Raises:
        ValueError: If the method is unknown, the model has no connections to train, or a target of LoRA is not there.
    """
    check_choice("method", method, METHODS)
    connections = [parameter for _, parameter in connection_parameters(model)]
    if method == "connections" and not connections:
        raise ValueError(
            "method: got 'connections' for a plain model, expected a model with them; set connection to shc, dhc or mhc"
        )
    if method == "full":
        return
    model.requires_grad_(False)
    if method == "lora":
        add_adapters(model, lora)
    # distilled models have two heads
    head = model.get_classifier()  # type: ignore[operator]
    heads = head if isinstance(head, tuple) else (head,)
    learning = [] if method == "knn" else [parameter for one in heads for parameter in one.parameters()]
    if method in ("lora", "connections"):
        learning += connections
    for parameter in learning:
        parameter.requires_grad_(True)
