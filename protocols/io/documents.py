"""YAML documents that remember where each of their values was written, and one laid over another.

The YAML is read by the JSON-like rules of YAML 1.2's core schema rather than YAML 1.1's: ``001`` is
text (an MNC, not the number 1), ``0012`` is not octal, ``yes`` and ``12:30`` are text, dates are text.
Duplicate keys are refused. An alias is its anchor's value, written where the anchor was; aliases of aliases, which
a few lines can make into billions of values, are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from protocols.errors import ConfigurationError

Location = tuple[int | str, ...]
"""Keys and positions that lead from the top of a document to a value."""


ALIASED_MAXIMUM = 10_000  # values that all aliases of a document stand for


class Words:
    """Stands for a value in an error line where the value itself must not or need not be printed."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


class _DuplicateKey(Exception):
    def __init__(self, key: str, line: int) -> None:
        super().__init__(key)
        self.key = key
        self.line = line


class _BadAlias(Exception):
    def __init__(self, what: str, expected: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's core scalars, without duplicate keys, with bounded aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0  # composed so far, what aliases stand for included
        self._aliased = 0
        self._sizes: dict[int, int] = {}  # of nodes, by identity: how many values each is, itself included

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node; what an alias stands for counts each time."""
        before = self._values
        alias = self.peek_event() if self.check_event(yaml.AliasEvent) else None  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if alias is None:
            self._values += 1
            self._sizes[id(node)] = self._values - before
            return node
        line = alias.start_mark.line + 1
        size = self._sizes.get(id(node))
        if size is None:
            raise _BadAlias("an alias of what it stands in", "an alias of something else", line)
        self._values += size
        self._aliased += size
        if self._aliased > ALIASED_MAXIMUM:
            expected = f"aliases that stand for {ALIASED_MAXIMUM} values at most"
            raise _BadAlias("aliases that stand for more", expected, line)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are text, each once."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            if key in seen:
                raise _DuplicateKey(key, key_node.start_mark.line + 1)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class _Written:
    """One file's tree of nodes."""

    file: str
    root: Any  # yaml.Node | None: PyYAML is not typed

    def part(self, key: str) -> _Written:
        """The tree under a key."""
        found = _child(self.root, key)
        return _Written(self.file, None if found is None else found[1])

    def reach(self, location: Location) -> tuple[int, int | None]:
        """How many steps of ``location`` lead through the file, and the line where the last of them is written."""
        node, line, taken = self.root, None, 0
        for step in location:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
            taken += 1
        return taken, line


def _child(node: Any, step: int | str) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    return None


@dataclass(frozen=True)
class Document:
    """Plain data, and the files that it was written in, the one that counts more first."""

    data: object
    _written: tuple[_Written, ...]

    @classmethod
    def of(cls, data: object, origin: str) -> Document:
        """Data that was written in no file; ``origin`` says where it comes from."""
        return cls(data, (_Written(origin, None),))

    @property
    def file(self) -> str:
        """The file that counts most."""
        return self._written[0].file

    def where(self, location: Location) -> tuple[str, int | None]:
        """File and line of the value at ``location``, or of the nearest value around it; no line for the whole.

        Steps that lead nowhere are passed over only at the end of ``location``.
        """
        reached = [(written.reach(location), written.file) for written in self._written]
        # max takes the first of equals: the file that counts more
        (_, line), file = max(reached, key=lambda each: each[0][0])
        return file, line

    def over(self, defaults: Document) -> Document:
        """This document's values, and those of ``defaults`` where it is silent.

        Mappings are laid over one another key by key; everything else, lists and null too, replaces what is below.
        """
        return Document(_laid(self.data, defaults.data), (*self._written, *defaults._written))

    def part(self, key: str) -> Document:
        """What stands under a key at its top, as a document; lines stay those of the file."""
        data = self.data.get(key) if isinstance(self.data, Mapping) else None
        return Document(data, tuple(each.part(key) for each in self._written))

    def with_value(self, key: str, value: object) -> Document:
        """The document with something else under a key at its top."""
        return Document({**self.data, key: value} if isinstance(self.data, Mapping) else {key: value}, self._written)

    def error(self, location: Location, value: object, expected: str) -> ConfigurationError:
        """The refusal of the value at ``location``; ``value`` is printed, so that it must be none that is secret."""
        file, line = self.where(location)
        key = ".".join(map(str, location)) or "(top)"
        return ConfigurationError(file=file, line=line, key=key, value=value, expected=expected)


def _laid(above: object, below: object) -> object:
    if not isinstance(above, Mapping) or not isinstance(below, Mapping):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _laid(value, below[key]) if key in below else value
    return merged


def read_text(text: str, file: str) -> Document:
    """Parse one YAML document; ``ConfigurationError`` where it is none. An empty one is an empty mapping."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        data = None if root is None else loader.construct_document(root)
    except _DuplicateKey as duplicate:
        raise ConfigurationError(
            file=file,
            line=duplicate.line,
            key=duplicate.key,
            value=Words("the key twice"),
            expected="every key once",
        ) from None
    except _BadAlias as bad:
        raise ConfigurationError(
            file=file, line=bad.line, key="(syntax)", value=Words(bad.what), expected=bad.expected
        ) from None
    except yaml.MarkedYAMLError as problem:
        # the mark's snippet quotes the file, which may hold secrets: line and column only
        mark = problem.problem_mark or problem.context_mark
        what = (problem.problem or problem.context or "text that does not parse").splitlines()[0]
        if not isinstance(problem, yaml.parser.ParserError | yaml.scanner.ScannerError):
            what = "a tag or alias that is not understood"
        line = None if mark is None else mark.line + 1
        raise ConfigurationError(file=file, line=line, key="(syntax)", value=Words(what), expected="YAML") from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise ConfigurationError(
            file=file, key="(syntax)", value=Words("text that does not parse"), expected="YAML"
        ) from None
    finally:
        loader.dispose()
    return Document({} if data is None else data, (_Written(file, root),))


def read_file(path: Path | str) -> Document:
    """Read a YAML file; ``ConfigurationError`` where it cannot be read or is no YAML."""
    return read_text(file_text(Path(path)), str(path))


def file_text(path: Path) -> str:
    """A file of the user's as text; ``ConfigurationError`` where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _unreadable(path, "no such file") from None
    except IsADirectoryError:
        raise _unreadable(path, "a directory") from None
    except PermissionError:
        raise _unreadable(path, "a file that may not be read") from None
    except UnicodeDecodeError:
        raise _unreadable(path, "octets that are not UTF-8") from None
    except OSError as problem:
        raise _unreadable(path, problem.strerror or "an unreadable file") from None


def _unreadable(path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(
        file=str(path), key="(file)", value=Words(what), expected="a readable YAML configuration file"
    )
