"""Names of models, `<architecture>[_<connection>][.<tag>]`: the one place that splits and joins them."""

from typing import NamedTuple

from mhc_vision.layers import CONNECTIONS


class ModelName(NamedTuple):
    """The parts of a name.

    Attributes:
        architecture: timm's name of the plain model.
        connection: A key of `CONNECTIONS`, or `None` for a plain model.
        tag: Of its weights; empty where the name has none.
    """

    architecture: str
    connection: str | None = None
    tag: str = ""

    @property
    def registered(self) -> str:
        """What timm's registry knows: the name without the tag."""
        return self.architecture if self.connection is None else f"{self.architecture}_{self.connection}"

    @property
    def plain(self) -> str:
        """The plain model with the same tag."""
        return str(self._replace(connection=None))

    def __str__(self) -> str:
        return f"{self.registered}.{self.tag}" if self.tag else self.registered


def split_name(name: str) -> ModelName:
    """The parts of `vit_base_patch16_224_mhc.augreg_in21k`; whether there is such a model does not matter."""
    registered, _, tag = name.partition(".")
    architecture, _, last = registered.rpartition("_")
    if architecture and last in CONNECTIONS:
        return ModelName(architecture, last, tag)
    return ModelName(registered, None, tag)
