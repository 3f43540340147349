"""From argv and experiment files to settings, and one clear sentence for whatever is wrong with them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from vle_lightning.errors import UserError
from vle_lightning.yaml_limits import LOADER, check_arguments, read_yaml

DEFAULT_TASK = "pretrain"
COMMAND_LINE = "command line"  # a place where options are given
UNKNOWN = re.compile(r"(?:does not accept option '|unrecognized arguments: -+)([\w.]+)")
OPTION = re.compile(r"(?:data|model|trainer)\.\w+|task(?=:)")
CONFIG = ("-c", "--config")
ARCHITECTURE = "model.architecture"
FLOAT = re.compile(r"[-+]?\d+e[-+]?\d+")
KEYED = re.compile(r'Parser key "([\w.]+)":\s*(.*)', re.DOTALL)


class ParseError(UserError):
    """What jsonargparse found wrong, in its own words."""


class ExperimentParser(LightningArgumentParser):
    """A parser that raises its errors instead of printing them below the usage of every option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ``message``, or what jsonargparse raises where it only tries something out."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise ParseError(message) from ex


class Experiment(NamedTuple):
    """What must be known before there is a parser."""

    task: str
    files: tuple[Path, ...]  # experiment files, in the order of the command line
    settings: tuple[object, ...]  # their content, one each
    arguments: tuple[str, ...]  # the command line

    @property
    def run_name(self) -> str:
        """Return ``<task>-<experiment>``, by the first file; others only change it."""
        return f"{self.task}-{self.files[0].stem}" if self.files else self.task

    def gives(self, key: str) -> bool:
        """Is the option given anywhere?"""
        told = any(_find(content, key.split(".")) is not None for content in self.settings)
        return told or self._on_command_line(key)

    def source(self, key: str) -> str:
        """Say where an option was given, for error messages."""
        if self._on_command_line(key):
            return COMMAND_LINE
        holders = [
            f
            for f, content in zip(self.files, self.settings, strict=True)
            if _find(content, key.split(".")) is not None
        ]
        return str([Path("defaults"), *(holders or self.files)][-1])

    def _on_command_line(self, key: str) -> bool:
        names = (a.lstrip("-").split("=")[0] for a in self.arguments if a.startswith("-"))
        return any(name == key or name.startswith(f"{key}.") for name in names)


def read_experiment(arguments: Sequence[str]) -> Experiment:
    """Read the experiment files that a command line names, far enough to know the task.

    Raises:
        UserError: a file is missing, is no YAML or too much of it, or holds no options.
    """
    if unreadable := next((a for a in arguments if "\0" in a or not is_text(a)), None):
        raise UserError(f"command line: {unreadable[:80]!r} holds a byte that no text has; names of files are UTF-8")
    check_arguments(tuple(arguments))
    files = tuple(Path(value) for value in _values(arguments, CONFIG))
    settings = tuple(_read(file) for file in files)
    named = [content["task"] for content in settings if "task" in content]
    task = [*named, *_values(arguments, ("--task",))] or [DEFAULT_TASK]
    return Experiment(str(task[-1]), files, settings, tuple(arguments))


def spell_out(experiment: Experiment, default: object) -> list[str]:
    """Return the command line with single options of the architecture laid into what is given of it before them.

    Behind a preset's name, such as ``tiny`` in a file, ``--model.architecture.fusion.kind merged_attention`` means
    ``{preset: tiny, fusion: {kind: merged_attention}}``, which is what config.yaml holds then. jsonargparse would let
    the option replace the name, and drop the option's neighbours.

    Args:
        experiment: the files and the command line.
        default: the architecture where none is given.

    Raises:
        UserError: an architecture is neither a name nor options, or what shall hold an option holds none.
    """
    given, files = default, iter(zip(experiment.files, experiment.settings, strict=True))
    result: list[str] = []
    rest = list(experiment.arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, joined = argument.partition("=")
        is_ours = name == f"--{ARCHITECTURE}" or name.startswith(f"--{ARCHITECTURE}.")
        if name in CONFIG:
            file, content = next(files, (None, None))
            found = _find(content, ARCHITECTURE.split("."))
            given = given if found is None else _architecture(found, str(file))
        if not is_ours or not (equals or rest):
            result.append(argument)
            continue
        value = _from_text(joined if equals else rest.pop(0))
        path = name.removeprefix(f"--{ARCHITECTURE}").split(".")[1:]
        given = _laid_into({"preset": given} if isinstance(given, str) and path else given, path, value, ARCHITECTURE)
        told = _architecture(given, COMMAND_LINE)
        result.append(f"--{ARCHITECTURE}={told if isinstance(told, str) else json.dumps(told, default=str)}")
    return result


def _architecture(value: object, where: str) -> object:
    if not isinstance(value, str | dict):
        raise UserError(f"{where}: {ARCHITECTURE} is {value!r}; give the name of a preset, or options (key: value)")
    return _with_floats(value)


def _laid_into(content: object, path: Sequence[str], value: object, where: str) -> object:
    if not path:
        return value
    if not isinstance(content, dict):
        raise UserError(f"{COMMAND_LINE}: {where} is {content!r}; it holds no option {path[0]}")
    return {**content, path[0]: _laid_into(content.get(path[0]) or {}, path[1:], value, f"{where}.{path[0]}")}


def _from_text(text: str) -> object:
    """Read a value of the command line as YAML."""
    try:
        return _with_floats(yaml.load(text, Loader=LOADER))
    except yaml.YAMLError:
        return text


def _with_floats(value: object) -> object:
    """Turn texts such as 1e-5 into the numbers that they are: PyYAML wants a point in them."""
    if isinstance(value, dict):
        return {key: _with_floats(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_floats(one) for one in value]
    return float(value) if isinstance(value, str) and FLOAT.fullmatch(value) else value


def refuse_misplaced(experiment: Experiment, groups: Iterable[str], linked: Mapping[str, str]) -> None:
    """Refuse what jsonargparse would pass over in silence.

    Args:
        experiment: the files and the command line.
        groups: options that hold options, such as ``model``.
        linked: options that follow from another one, and its name.

    Raises:
        UserError: a group is given a value, or a linked option is given at all.
    """
    for file, content in zip(experiment.files, experiment.settings, strict=True):
        for group in groups:
            if not isinstance(value := _find(content, group.split(".")), dict | None):
                raise UserError(f"{file}: {group} holds options (key: value), not {value!r}")
    for key, origin in linked.items():
        if experiment.gives(key):
            raise UserError(f"{experiment.source(key)}: {key} follows from {origin}; set that instead")


def refuse_empty(experiment: Experiment, groups: Iterable[str], known: Iterable[str]) -> None:
    """Refuse unknown options that hold none themselves, such as ``objectivs: {}``: jsonargparse passes over them.

    Args:
        experiment: the files and the command line.
        groups: options that hold options, such as ``model``.
        known: all options there are.

    Raises:
        UserError: one is unknown.
    """
    options = set(known) - set(groups)
    for file, content in zip(experiment.files, experiment.settings, strict=True):
        for key in _empty(content):
            above = {key.rsplit(".", count)[0] for count in range(key.count(".") + 1)}
            if not (above & options or any(option.startswith(f"{key}.") for option in options)):
                raise UserError(f"{file}: {_unknown(key, options)}")


def _empty(content: object, above: str = "") -> Iterator[str]:
    for name, value in content.items() if isinstance(content, dict) else ():
        key = f"{above}{name}"
        yield from (key,) if value == {} else _empty(value, f"{key}.")


def _unknown(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.75)
    hint = f"did you mean {close[0]}?" if close else "`python -m vle_lightning fit --help` lists all options"
    return f"there is no option {key}; {hint}"


def explain(message: str, experiment: Experiment, known: Iterable[str]) -> str:
    """Turn a message of jsonargparse into one that names key, place and remedy.

    Args:
        message: what jsonargparse says.
        experiment: the files and the command line.
        known: all options there are.
    """
    if keyed := KEYED.match(message):
        key, reason = keyed.groups()
        return f"{experiment.source(key)}: {key}: {_shorten(reason)}"
    if unknown := UNKNOWN.search(message):
        key = unknown.group(1)
        return f"{experiment.source(key)}: {_unknown(key, known)}"
    return f"{', '.join(map(str, experiment.files)) or 'command line'}: {_shorten(message)}"


def locate(message: str, arguments: Sequence[str]) -> str:
    """Put the file that gives an option before a message that begins with the option's name."""
    begins = OPTION.match(message)
    return f"{read_experiment(arguments).source(begins.group())}: {message}" if begins else message


def _shorten(reason: str) -> str:
    lines = [line.strip(" -") for line in reason.splitlines()]
    boilerplate = (
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "Given value type",
        "Problem with given class_path",
    )
    told = "; ".join(line for line in lines if line and not line.startswith(boilerplate))
    return re.sub(r"(?:an? )?<class '([\w.]+)'>", r"\1", told.replace("a typing.Literal", "one of "))


def fault_of_path(value: str) -> str | None:
    """Say why no file can have such a path; None where one can, be it there or not."""
    try:
        Path(value).stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError) as error:  # too long, links in a circle, a NUL
        shown = value if len(value) <= 80 else f"{value[:60]}...{value[-15:]}"
        return f"{shown!r} is no path of a file: {getattr(error, 'strerror', None) or error}"
    return None


def is_text(value: str) -> bool:
    """Can a text be written as UTF-8? The bytes of a command line that are none come as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _values(arguments: Sequence[str], names: tuple[str, ...]) -> list[str]:
    following = zip(arguments, arguments[1:], strict=False)
    apart = {index: value for index, (name, value) in enumerate(following) if name in names}
    joined = {
        index: argument.split("=", 1)[1]
        for index, argument in enumerate(arguments)
        if "=" in argument and argument.split("=", 1)[0] in names
    }
    return [value for _, value in sorted((apart | joined).items())]


def _read(file: Path) -> dict[str, object]:
    if fault := fault_of_path(str(file)):
        raise UserError(f"--config: {fault}")
    if not file.is_file():
        raise UserError(f"--config: there is no experiment file {file}; those that ship are under experiments/")
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: an experiment file holds options (key: value), this one a {type(content).__name__}")
    return content


def _find(content: object, path: list[str]) -> object:
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    return content
