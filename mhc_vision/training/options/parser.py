"""The parser of `train` and `finetune`: jsonargparse's, with one loader for YAML and short messages."""

from collections.abc import Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from mhc_vision.checks import check_whole_number
from mhc_vision.command_line.given_settings import Given, batch_size_is_last, given_settings, merged_model_args
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.recipes import with_config_paths
from mhc_vision.training.options.errors import short_message
from mhc_vision.yaml_files import check_yaml

_MODE = "yaml_unique_keys"
# of jsonargparse, for which 1e-3 is a number
_load_values = get_loader("yaml")


def _load(text: str) -> Any:
    """Values as jsonargparse's YAML mode gives them, of texts that `check_yaml` lets pass."""
    value = _load_values(text)
    # what is one word may be no YAML at all
    if isinstance(value, dict | list):
        check_yaml(text, "YAML")
    return value


set_loader(_MODE, _load, exceptions=(yaml.YAMLError,))


class _Refused(Exception):
    """What a parser refuses; no ValueError, which jsonargparse would take for one of its own."""

    def __init__(self, parser: LightningArgumentParser, message: str) -> None:
        super().__init__(message)
        self.parser = parser


class OptionParser(LightningArgumentParser):
    """Options have to be spelt out, and mistakes are raised for `parse_options`, without pages of usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"parser_mode": _MODE, "allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises what the command line is refused for; in parsers within parsers as jsonargparse expects it."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise _Refused(getattr(ex, "subcommand_parser", self), message) from ex


def parse_options(parser: LightningArgumentParser, words: Sequence[str]) -> Namespace:
    """The settings that a command line makes.

    Of `data.batch_size` and `data.total_batch_size` the one that is given later counts. Files that set
    `model.model_args` lie on top of each other key by key, as those of all other sections do.

    Raises:
        SystemExit: With status 2 and a message, if anything is refused.
    """
    given: list[Given] = []
    try:
        words = with_config_paths(words)
        given = given_settings(words, _load_values)
        config: Namespace = parser.parse_args(words)
        _check_seed(_of_run(config)["seed_everything"])
    except _Refused as refused:
        fail(f"error: {short_message(str(refused), refused.parser, given)}", status=2)
    except ValueError as error:
        fail(f"error: {error}", status=2)
    _choose_batch_size(config, given)
    _merge_model_args(_of_run(config), given)
    return config


def _of_run(config: Namespace) -> Namespace:
    """The settings without the subcommand above them."""
    subcommand = config.get("subcommand")
    settings: Namespace = config[subcommand] if subcommand else config
    return settings


def _check_seed(seed: int | bool) -> None:
    if not isinstance(seed, bool):
        check_whole_number("seed_everything", seed, at_least=0, at_most=2**32 - 1)


def _merge_model_args(config: Namespace, given: Sequence[Given]) -> None:
    """For jsonargparse a mapping is one value, and that of a later file replaces all of it."""
    merged = merged_model_args(given, _load_values)
    if merged and config.get("model.model_args") is not None:
        config["model.model_args"] = {**merged, **config["model.model_args"]}


def _choose_batch_size(config: Namespace, given: Sequence[Given]) -> None:
    options = _of_run(config).get("data.init_args")
    if options is None or options.get("total_batch_size") is None or not batch_size_is_last(given):
        return
    rank_zero_only(print)(
        f"data.batch_size: {options.batch_size} replaces the data.total_batch_size {options.total_batch_size} given "
        "before it",
        flush=True,
    )
    options.total_batch_size = None
