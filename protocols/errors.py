"""The error hierarchy of the whole project: errors are sorted by who is to blame.

``LocalError``: we asked for something illegal now. ``RemoteError``: the peer broke a rule.
``BackendError``: the kernel, a database or a transport failed. ``ConfigurationError``: the user's
configuration or command is wrong. A peer's octets raise ``RemoteError`` or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

Fact = str | int | float | bool | None | list["Fact"] | dict[str, "Fact"]  # JSON-ready


def printable(text: str) -> str:
    """The text on one line, with escapes in place of what is not printed."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class StackError(Exception):
    """Root of every error this project raises on purpose."""


class LocalError(StackError):
    """The caller asked for something that is illegal in the present state."""


class RemoteError(StackError):
    """The peer broke a rule; ``notify_type`` is the IKEv2 Notify that answers it, if one does.

    ``reason`` is a slug for programs where there is one, ``facts`` the values behind it. What the peer wrote of the
    message makes no lines of its own.
    """

    def __init__(
        self,
        message: str,
        notify_type: int | None = None,
        notify_data: bytes = b"",
        *,
        reason: str = "",
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        super().__init__(printable(message))
        self.notify_type = notify_type
        self.notify_data = notify_data
        self.reason = reason
        self.facts: Mapping[str, Fact] = facts or {}


class DecodeError(RemoteError):
    """Octets that do not parse."""


class AuthenticationError(RemoteError):
    """An AUTH payload, certificate, MAC or RES that does not verify."""


class NegotiationError(RemoteError):
    """No acceptable proposal, selector or key exchange group."""


class BackendError(StackError):
    """Kernel, database or transport failure, mapped to this at the io boundary."""


class ConfigurationError(StackError):
    """A user's configuration is wrong; its text is one line naming file, line, key, value and expectation.

    ``line`` counts from 1; ``None`` where no line is to blame.
    """

    def __init__(self, *, file: str, key: str, value: object, expected: str, line: int | None = None) -> None:
        got = "nothing" if value is None else repr(value)
        where = file if line is None else f"{file}:{line}"
        super().__init__(f"{where}: {key}: got {got}, expected {expected}")
        self.file = file
        self.line = line
        self.key = key
        self.value = value
        self.expected = expected
