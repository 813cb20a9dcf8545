"""Configuration files: YAML (``documents``), read once into frozen pydantic models, refused in one line.

Unknown keys are refused. An error names the file, the line, the dotted key, the value and what was expected;
values below keys that name secrets are never printed.
"""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from logging import getLevelNamesMapping
from pathlib import Path
from typing import Annotated, Literal, NoReturn, ParamSpec, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from protocols.errors import ConfigurationError, StackError, printable
from protocols.io.documents import Document, Location, Words, read_file, read_text
from protocols.io.logging import start_logging
from protocols.path import Endpoint as PathEndpoint
from protocols.secret import Secret
from protocols.trace.records import JsonValue

SECRET_KEYS = frozenset(
    {
        "k",
        "op",
        "opc",
        "top",
        "topc",
        "key",
        "keys",
        "ki",
        "pin",
        "psk",
        "secret",
        "secrets",
        "token",
        "tokens",
        "password",
        "passphrase",
        "credential",
        "credentials",
        "database",  # a database URL may carry a password
        "url",
    }
)
_SHOWN_CHARACTERS = 60


class ConfigurationModel(BaseModel):
    """Base of every configuration section: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, validate_default=True)

    @classmethod
    def completed(cls, document: Document, directory: Path | None) -> Document:
        """The document with what it takes from other files, before it is validated."""
        del directory
        return document


ModelT = TypeVar("ModelT", bound=BaseModel)


# --- Values -----------------------------------------------------------------------------------------


def _endpoint(value: object) -> PathEndpoint:
    if isinstance(value, PathEndpoint):
        return value
    refusal = PydanticCustomError("endpoint", "an address and port such as 127.0.0.1:3868 or [::1]:3868")
    if not isinstance(value, str):
        raise refusal
    host, colon, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise refusal
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise refusal
    try:
        return PathEndpoint.of(host, int(port))
    except ValueError:
        raise refusal


def _secret_octets(lengths: tuple[int, ...]) -> Callable[[object], Secret]:
    def parse(value: object) -> Secret:
        if isinstance(value, Secret):
            return value
        expected = " or ".join(str(2 * length) for length in lengths) or "an even number of"
        refusal = PydanticCustomError("hex_secret", f"{expected} hexadecimal digits")
        text = _digits(value)
        if not isinstance(text, str):
            raise refusal
        try:
            octets = bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            raise refusal
        if lengths and len(octets) not in lengths:
            raise refusal
        return Secret(octets)

    return parse


def _secret_text(value: object) -> Secret:
    if isinstance(value, Secret):
        return value
    text = _digits(value)
    if not isinstance(text, str) or not text:
        raise PydanticCustomError("secret_text", "text, not empty")
    return Secret(text.encode())


def _shared_key(value: object) -> Secret:
    """RFC 7296 §2.15: the text as it is, nothing added; "It MUST also accept a hex encoding", which 0x begins."""
    if isinstance(value, str) and value.startswith("0x") and len(value) > len("0x"):
        return _secret_octets(())(value)
    return _secret_text(value)


def _digits(value: object) -> object:
    """Text that happens to be all digits and was not quoted (an IMSI, a key) back as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _or_auto(value: object) -> object:
    if not isinstance(value, bool) and value != "auto":
        raise PydanticCustomError("auto", "auto, true or false")
    return value


def _whole_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("whole_number", "a whole number")
    return value


def _seconds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("seconds", "a number of seconds")
    return value


def _beside_the_file(value: Path, info: ValidationInfo) -> Path:
    directory = (info.context or {}).get("directory") if isinstance(info.context, Mapping) else None
    value = value.expanduser()
    return value if directory is None or value.is_absolute() else Path(directory) / value


Endpoint = Annotated[PathEndpoint, BeforeValidator(_endpoint), PlainSerializer(str)]
"""``127.0.0.1:3868`` or ``[::1]:3868`` as a ``protocols.path.Endpoint``."""

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

Port = Annotated[int, BeforeValidator(_whole_number), Field(ge=1, le=65535)]
"""A port that can be bound; ``AnyPort`` also takes 0, which lets the system choose."""

AnyPort = Annotated[int, BeforeValidator(_whole_number), Field(ge=0, le=65535)]

Count = Annotated[int, BeforeValidator(_whole_number), Field(ge=0)]

AutoFlag = Annotated[bool | Literal["auto"], BeforeValidator(_or_auto)]
"""On, off, or what fits."""

Interval = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
"""A duration in seconds, above zero."""

Digits = Annotated[str, BeforeValidator(_digits)]
"""Text that may be all digits and unquoted in the file: an IMSI, an MNC, an IMEI."""

HexSecret = Annotated[Secret, BeforeValidator(_secret_octets(())), PlainSerializer(lambda _: "…")]
Key128 = Annotated[Secret, BeforeValidator(_secret_octets((16,))), PlainSerializer(lambda _: "…")]
"""A 128-bit key in hexadecimal: K, OP, OPc."""

SharedKey = Annotated[Secret, BeforeValidator(_shared_key), PlainSerializer(lambda _: "…")]
"""A pre-shared key: text, or octets in hexadecimal after ``0x`` (in quotes, as YAML has such numbers)."""

TextSecret = Annotated[Secret, BeforeValidator(_secret_text), PlainSerializer(lambda _: "…")]
"""A token or passphrase, kept as the UTF-8 octets of its text."""

FilePath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path; a relative one is taken from the configuration file's directory."""


# --- Errors -----------------------------------------------------------------------------------------


def unfit(expected: str, *keys: str) -> PydanticCustomError:
    """The refusal, by a validator of a whole section, of what stands under ``keys`` there, one within the other."""
    return PydanticCustomError(_UNFIT, "{expected}", {"keys": keys, "expected": expected})


_UNFIT = "unfit"


def _is_secret(key: str) -> bool:
    words = [word for word in re.split(r"[^a-z0-9]+", key.lower()) if word]
    return any(word in SECRET_KEYS for word in words) or "".join(words) in SECRET_KEYS


def _shown(value: object, keys: list[str]) -> object:
    """``value`` fit for one line of an error message about the dotted ``keys``."""
    if any(_is_secret(key) for key in keys):
        return Words("a value that is not shown")
    if value is None:
        return Words("nothing")
    if isinstance(value, Mapping):
        return Words("a mapping")
    if isinstance(value, list | tuple | set | frozenset):
        return Words("a list" if value else "an empty list")
    if isinstance(value, bool):
        return Words("true" if value else "false")
    if isinstance(value, str | int | float):
        text = repr(value)
        return value if len(text) <= _SHOWN_CHARACTERS else Words(text[:_SHOWN_CHARACTERS] + "…")
    return Words(type(value).__name__)


def _under(keys: tuple[str, ...], section: object) -> object:
    """What the file has there; ``None`` where it is silent."""
    for key in keys:
        section = section.get(key) if isinstance(section, Mapping) else None
    return section


def _steps(location: Location, data: object) -> Location:
    """The error's location as keys of the file: names of union branches are left out."""
    steps: list[int | str] = []
    for position, step in enumerate(location):
        if isinstance(data, Mapping):
            if step not in data and position < len(location) - 1:
                continue
            data = data.get(step)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            continue
        steps.append(step)
    return tuple(steps)


_EXPECTED = {
    "missing": "a value",
    "string_type": "text (in quotes where it looks like a number)",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
    "ip_v4_address": "an IPv4 address",
    "ip_v6_address": "an IPv6 address",
    "ip_any_address": "an IP address",
    "ip_v4_network": "an IPv4 network such as 10.45.0.0/16",
    "ip_v6_network": "an IPv6 network such as 2001:db8::/48",
    "ip_any_network": "a network such as 10.45.0.0/16",
}


_EITHER = {"ip_v4_address": "ip_v6_address", "ip_v4_network": "ip_v6_network"}  # where both were tried


def _expected(error: ErrorDetails, known: list[str]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        key = str(error["loc"][-1])
        near = difflib.get_close_matches(key, known, 1)
        return f"no such key (did you mean {near[0]}?)" if near else "no such key: " + _one_of(known)
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    for bound, words in (
        ("ge", "at least"),
        ("gt", "more than"),
        ("le", "at most"),
        ("lt", "less than"),
        ("min_length", "a length of at least"),
        ("max_length", "a length of at most"),
    ):
        if bound in context:
            return f"{words} {context[bound]}"
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        return f"text like {context['pattern']}"
    if kind == "value_error":
        return str(context["error"])
    return error["msg"]


def _one_of(keys: list[str]) -> str:
    return "known keys are " + ", ".join(keys) if keys else "nothing may stand here"


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the model section around ``location`` knows, as far as its annotations tell."""
    current: type[BaseModel] | None = model
    for step in location[:-1]:
        if current is None:
            return []
        if isinstance(step, int):
            continue
        field = current.model_fields.get(step)
        if field is not None:
            current = _section(field.annotation)
    return [] if current is None else [field.alias or name for name, field in current.model_fields.items()]


def _section(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section(argument)
        if found is not None:
            return found
    return None


def _refuse(problem: ValidationError, model: type[BaseModel], document: Document) -> NoReturn:
    data = document.data
    errors = problem.errors(include_url=False)
    # a misspelt key is both unknown and missing: the unknown one is what the user can see in the file
    error = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    location = _steps(error["loc"], data)
    if error["type"] == _UNFIT:
        below = error["ctx"]["keys"]
        location, error["input"] = (*location, *below), _under(below, error["input"])
    keys = [str(step) for step in location]
    silent = error["type"] == "missing" or (error["type"] == _UNFIT and error["input"] is None)
    value: object = Words("nothing") if silent else _shown(error["input"], keys)
    if error["type"] in ("hex_secret", "secret_text"):
        value = Words("a value that is not shown")
    if error["type"] == "extra_forbidden" and not isinstance(error["input"], Mapping | list):
        # a misspelt secret's name is not in the list of secrets: its value stays unprinted
        value = Words("an unknown key")
    if any(_steps(each["loc"], data) == location and each["type"] == _EITHER.get(error["type"]) for each in errors):
        error["type"] = error["type"].replace("_v4_", "_any_")
    file, line = document.where(location)
    raise ConfigurationError(
        file=file,
        line=line,
        key=".".join(keys) or "(top)",
        value=value,
        expected=_expected(error, _known_keys(model, error["loc"])).replace("\n", " "),
    ) from None


# --- Sections that all nodes have --------------------------------------------------------------------


class LogFormat(str, Enum):
    """Log lines for people, or one JSON object each."""

    TEXT = "text"
    JSON = "json"


class LogLevel(str, Enum):
    """What is logged at least."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LoggingSection(ConfigurationModel):
    """How a node logs."""

    format: LogFormat = LogFormat.TEXT
    level: LogLevel = LogLevel.INFO

    def start(self, node: str, *, as_json: bool = False, verbose: bool = False) -> None:
        """Log so from now on; ``as_json`` and ``verbose`` (of a command line) go before what is configured."""
        level = "DEBUG" if verbose else self.level.name
        start_logging(
            node, level=getLevelNamesMapping()[level], machine_readable=as_json or self.format is LogFormat.JSON
        )


# --- Loading ----------------------------------------------------------------------------------------


def parse(text: str, model: type[ModelT], *, file: str = "(text)", directory: Path | None = None) -> ModelT:
    """Validate YAML ``text`` into ``model``; ``ConfigurationError`` on the first thing wrong."""
    return validate(read_text(text, file), model, directory=directory)


def load(path: Path | str, model: type[ModelT]) -> ModelT:
    """Read a configuration file into ``model``; ``ConfigurationError`` on the first thing wrong."""
    return validate(read_file(path), model, directory=Path(path).parent)


def validate(document: Document, model: type[ModelT], *, directory: Path | None = None) -> ModelT:
    """A document as ``model``, relative paths from ``directory``; ``ConfigurationError`` on the first thing wrong."""
    if issubclass(model, ConfigurationModel):
        document = model.completed(document, directory)
    try:
        return model.model_validate(document.data, context={"directory": directory})
    except ValidationError as problem:
        _refuse(problem, model, document)


def shown(configuration: ConfigurationModel) -> dict[str, JsonValue]:
    """A validated configuration as JSON, defaults and all, its secrets blanked by their types."""
    values: dict[str, JsonValue] = configuration.model_dump(mode="json")
    return values


# --- Console scripts --------------------------------------------------------------------------------

P = ParamSpec("P")
R = TypeVar("R")

EXIT_REFUSED = 1  # something outside failed or said no
EXIT_CONFIGURATION = 2  # the user's configuration or command is wrong


def exit_on_error(command: Callable[P, R]) -> Callable[P, R]:
    """Wrap a console command: errors become one line on standard error and an exit status.

    ``ConfigurationError`` exits 2, every other ``StackError`` (back ends, control answers) 1. The
    signature stays visible to typer. Anything else is a defect and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ConfigurationError as error:
            _say(error)
            raise SystemExit(EXIT_CONFIGURATION) from None
        except StackError as error:
            _say(error)
            raise SystemExit(EXIT_REFUSED) from None

    return wrapped


def _say(error: StackError) -> None:
    print(printable(" ".join(str(error).split())) or type(error).__name__, file=sys.stderr)
