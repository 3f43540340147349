"""YAML that is safe to load: a bound on size, depth, aliases, and on the nodes that aliases expand to.

An alias bomb of ten lines stands for billions of nodes, and an alias inside of what it names for endlessly many. The
events of the parser tell that before anything is built.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from vle_lightning.errors import UserError

MOST_BYTES = 10_000_000
MOST_NODES = 100_000  # with aliases expanded; a list of 3,129 answers has that many
MOST_ALIASES = 1_000
MOST_DEPTH = 50  # PyYAML and OmegaConf recurse
REPAIR = "write the options out"
MERGE = "tag:yaml.org,2002:merge"  # <<, which may stand several times
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same values, ten times faster, where PyYAML has libyaml


@dataclass
class _Open:
    """A collection whose end has not come yet."""

    anchor: str | None
    nodes: int = 1


@dataclass
class _Count:
    """What a document's events come to."""

    open: list[_Open] = field(default_factory=list)
    anchored: dict[str, int] = field(default_factory=dict)  # nodes that an alias stands for
    aliases: int = 0
    nodes: int = 0

    def add(self, event: yaml.Event) -> None:
        """Take one event in.

        Raises:
            ValueError: the document goes beyond a limit; says which.
        """
        if isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor)
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                self.anchored[event.anchor] = 1
            self._grow(1)
        elif isinstance(event, yaml.CollectionStartEvent):
            self.open.append(_Open(event.anchor))
            if len(self.open) > MOST_DEPTH:
                raise ValueError(f"is nested more than {MOST_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self.open.pop()
            if closed.anchor:
                self.anchored[closed.anchor] = closed.nodes
            self._grow(closed.nodes)

    def _alias(self, anchor: str) -> None:
        if any(collection.anchor == anchor for collection in self.open):
            raise ValueError(f"has an alias *{anchor} inside of what it names, which has no end")
        self.aliases += 1
        if self.aliases > MOST_ALIASES:
            raise ValueError(f"has more than {MOST_ALIASES:,} aliases")
        self._grow(self.anchored.get(anchor, 1))  # an unknown one is the loader's to refuse

    def _grow(self, nodes: int) -> None:
        if self.open:
            self.open[-1].nodes += nodes
        self.nodes = self.open[-1].nodes if self.open else self.nodes + nodes
        if self.nodes > MOST_NODES:
            raise ValueError(f"stands for more than {MOST_NODES:,} values")


def check_yaml(text: str, where: str) -> None:
    """Refuse a text that is YAML, but too much of it.

    Args:
        text: not parsed yet.
        where: file or option, for the message.

    Raises:
        UserError: it goes beyond a limit; says which.
        yaml.YAMLError: it is no YAML.
    """
    count = _Count()
    if len(text) > MOST_BYTES:
        raise UserError(f"{where}: this YAML has {len(text):,} characters; at most {MOST_BYTES:,} are read")
    for event in yaml.parse(text, Loader=LOADER):
        try:
            count.add(event)
        except ValueError as error:
            line = event.start_mark.line + 1
            raise UserError(f"{where}: line {line}: this YAML {error}; {REPAIR}") from error


def check_arguments(arguments: list[str] | tuple[str, ...]) -> None:
    """Refuse a command line with a value that is too much YAML: each value is read as such.

    Raises:
        UserError: a value goes beyond a limit; names the option.
    """
    for before, argument in itertools.pairwise(("", *arguments)):
        option, _, given = argument.partition("=") if argument.startswith("-") else (before, "", argument)
        if not option.startswith("-"):
            continue
        try:
            if given.endswith((".yaml", ".yml")) and Path(given).is_file():  # such as --model FILE
                read_yaml(Path(given))
            elif given.lstrip().startswith(("{", "[", "&", "*", "-", "?")) or ":" in given:
                check_yaml(given, option)
        except (yaml.YAMLError, OSError):  # no YAML at all: a plain text, or one that no file can be called
            continue


class _Loader(LOADER):  # type: ignore[valid-type, misc]
    """Refuses a key that is given twice, of which YAML's loaders take the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """Build a mapping."""
        keys: set[object] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is given twice", key.start_mark
                    )
                keys.add(key.value)
        mapping: dict[object, object] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(file: Path) -> object:
    """Load a YAML file of plain values.

    Raises:
        UserError: it cannot be read, is no YAML, or goes beyond a limit; names the file.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: this YAML has {file.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read")
        text = file.read_text(encoding="utf-8")
        check_yaml(text, str(file))
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: this is no YAML: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:  # dates out of range, such as 2020-13-45
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: this is no YAML of options: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
