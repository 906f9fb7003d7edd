"""Turns errors of jsonargparse and Lightning into a line or two for users: what came, and what was expected."""

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mhc_vision.checks import check_number, check_whole_number, nearest
from mhc_vision.command_line.given_settings import Given, source_of
from mhc_vision.command_line.messages import fail
from mhc_vision.command_line.option_names import unknown_key, unknown_option_of

REFUSALS = (ValueError, ImportError, MisconfigurationException)
"""What classes and Lightning raise for settings that they do not take."""

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)':\s*")
_NEXT_TRY = "\n    - "
_LONGEST = 300
_OF_HARDWARE = ("accelerator", "devices", "strategy", "precision")


def short_message(message: str, parser: LightningArgumentParser, given: Sequence[Given]) -> str:
    """What to tell the user of an error of jsonargparse; of one that is not known here, its beginning.

    Args:
        message: jsonargparse's.
        parser: That refused the words; it knows its options.
        given: What the words set, to name the file of a wrong key.
    """
    if match := re.match(r"unrecognized arguments: (\S+)", message):
        return _unknown_word(match[1], parser)
    if match := re.match(r"(?:Subcommand|Group) '([^']+)' does not accept option '([^']+)'", message):
        key = match[2] if message.startswith("Subcommand") else f"{match[1]}.{match[2]}"
        return unknown_key(key, [action.dest for action in parser._actions], source_of(given, key))
    if match := re.match(r"the following arguments are required: (.+)", message):
        names = [name.partition(".")[2] or name for name in match[1].split(", ")]
        options = " and ".join(f"--{name}" for name in names)
        return f"{', '.join(names)}: not given, expected a --config that sets this, or {options}"
    if match := re.match(r"argument (?P<source>\S+) --> (?P<key>\S+):", message) or re.match(
        r'Linked "(?P<key>\S+)" must be given via "(?P<source>\S+)"', message
    ):
        return f"{match['key']}: follows from {match['source']}, expected no value of its own"
    if match := _KEY.match(message):
        return _value_error(match[1], message[match.end() :], given)
    return _beginning(message)


def is_refusal(error: Exception, is_set_up: bool) -> bool:
    """Whether an error of a run is about its settings; once all is set up, a few of Lightning's still are."""
    # which metrics there are, callbacks learn at the first validation
    if isinstance(error, MisconfigurationException) or str(error).startswith("Early stopping conditioned on metric"):
        return True
    # wandb has no login, say: its errors are not importable where it is not installed
    return not is_set_up and (isinstance(error, REFUSALS) or type(error).__module__.startswith("wandb."))


def reason_of(error: BaseException) -> BaseException:
    """What a class or Lightning refused, without jsonargparse's account of the types it tried."""
    while isinstance(error.__cause__, ValueError | MisconfigurationException):
        error = error.__cause__
    return error


@contextmanager
def trainer_refusals(config: Mapping[str, Any]) -> Iterator[None]:
    """Ends the program with a message where the Trainer does not take its settings.

    Args:
        config: Arguments of the Trainer.
    """
    try:
        _check_known(
            "accelerator", config["accelerator"], ("auto", "gpu", *AcceleratorRegistry.available_accelerators())
        )
        _check_known("strategy", config["strategy"], ("auto", *StrategyRegistry.available_strategies()))
        # these Lightning takes, and divides by them or does something else later
        check_whole_number("accumulate_grad_batches", config["accumulate_grad_batches"], at_least=1)
        if config["gradient_clip_val"] is not None:
            check_number("gradient_clip_val", config["gradient_clip_val"], at_least=0.0)
        if config["check_val_every_n_epoch"] is not None:
            check_whole_number("check_val_every_n_epoch", config["check_val_every_n_epoch"], at_least=1)
        yield
    # of a Trainer's constructor nothing else is to be expected: it only looks at what it is given
    except (*REFUSALS, TypeError, RuntimeError, OSError) as error:
        text = _beginning(str(error))
        if any(name in text.lower() for name in (*_OF_HARDWARE, "gpu")):
            text += f" ({', '.join(f'{name}={config[name]!r}' for name in _OF_HARDWARE)})"
        fail(f"error: trainer: {text}", status=2)


def _check_known(name: str, value: Any, known: Sequence[str]) -> None:
    # objects are left alone
    if isinstance(value, str) and value not in known:
        hint = nearest(value, known) or f", expected one of {', '.join(known)}"
        raise ValueError(f"{name}: got {value!r}{hint}")


def _unknown_word(word: str, parser: LightningArgumentParser) -> str:
    if not word.startswith("-"):
        return f"got the word {word!r}, expected options only, each with its value: --name value"
    option = word.partition("=")[0]
    return f"{option}: there is no such option{nearest(option, parser._option_string_actions)}"


def _value_error(key: str, rest: str, given: Sequence[Given]) -> str:
    """Of a message about a key; the first class that was tried is the one that was meant."""
    if match := _CLASS.search(rest):
        if re.match(r"No module named|module .* has no attribute", rest[match.end() :]):
            return _unknown_class(key, match[1], rest)
        return _class_error(key, match[1], rest[match.end() :], given)
    if match := re.search(r"Expected a dot import path string: (\S+)", rest):
        return _unknown_class(key, match[1], rest)
    value = re.search(r"Given value: (.*)", rest) or re.search(r"Got value: (.*)", rest)
    if value is None:
        return f"{key}: {_beginning(rest.lstrip(': '))}"
    got = f"{key}: got {value[1]!r}" if len(value[1]) <= 60 else f"{key}: got {value[1][:60]!r}..."
    if match := re.search(r"correspond to a subclass of (\w+)|Not a valid subclass of (\w+)", rest):
        return f"{got}, expected the name of a {match[1] or match[2]}"
    expected = [_type_name(text) for text in re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", rest, re.MULTILINE)]
    words = re.findall(r"'([^']+)'", " ".join(name for name in expected if "'" in name))
    return f"{got}, expected {' or '.join(dict.fromkeys(expected)) or 'another value'}{nearest(value[1], words)}"


def _class_error(key: str, class_path: str, rest: str, given: Sequence[Given]) -> str:
    name = class_path.rpartition(".")[2]
    if match := re.match(r"Option '([^']+)' is not accepted", rest):
        known = parameters_of(_find_class(class_path))
        option = f"{key}.{match[1]}"
        return unknown_option_of(option, name, known, source_of(given, option))
    if match := _KEY.match(rest):
        return _value_error(f"{key}.{match[1]}", rest[match.end() :].split(_NEXT_TRY)[0], given)
    return f"{key}: {name}: {_beginning(rest.split(_NEXT_TRY)[0])}"


def _unknown_class(key: str, name: str, rest: str) -> str:
    base = re.search(r"Subtypes: .*?([\w.]+\.[A-Z]\w+)", rest)
    known = _subclasses(base[1]) if base else []
    what = base[1].rpartition(".")[2] if base else "class"
    return f"{key}: got {name!r}, expected the name of a {what}{nearest(name.rpartition('.')[2] or name, known)}"


def parameters_of(found: type | None) -> list[str]:
    """Names of what a class takes; of its base classes only what it passes on as keyword arguments."""
    names: dict[str, None] = {}
    for base in found.__mro__[:-1] if found is not None else ():
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names |= dict.fromkeys(each.name for each in parameters if each.kind in named and each.name != "self")
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
            break
    return list(names)


def _find_class(class_path: str) -> type | None:
    """A class that jsonargparse has imported."""
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if inspect.isclass(found) else None


def _subclasses(class_path: str) -> list[str]:
    found = _find_class(class_path)
    rest: list[type] = [] if found is None else [found]
    names: list[str] = []
    while rest:
        subclasses: list[type] = rest.pop().__subclasses__()
        rest += subclasses
        names += [subclass.__name__ for subclass in subclasses]
    return names


def _type_name(text: str) -> str:
    """`<class 'int'>` is int, and `typing.Literal['a', 'b']` is 'a', 'b'."""
    if match := re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>", text):
        return "null" if match[1] == "NoneType" else match[1]
    return re.sub(r"^typing\.Literal\[(.*)\]$", r"\1", text)


def _beginning(text: str) -> str:
    """The first lines of a long account, as one."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else words[:_LONGEST].rsplit(" ", 1)[0] + " ..."
