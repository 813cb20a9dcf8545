"""The AVP dictionary of the ``diameter`` package, without the package's messages.

By its own name it would bring a dataclass for every command and grouped AVP of the package, which nothing here uses:
a fifth of a second of every node's start. So its modules are imported under another name, whose parents run nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NotRequired, TypedDict


class Entry(TypedDict):
    """What the package says of one AVP; ``type`` is one of its classes, ``AvpUnsigned32`` for example."""

    name: str
    type: type
    mandatory: NotRequired[bool]


_NAME = f"{__name__}.diameter"


def avp_dictionaries() -> dict[int, Mapping[int, Entry]]:
    """By vendor (0: IETF) and AVP code."""
    spec = find_spec("diameter")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'diameter': the package python-diameter", name="diameter")
    (directory,) = spec.submodule_search_locations
    for name, path in ((_NAME, directory), (f"{_NAME}.message", f"{directory}/message")):
        parent = ModuleType(name)
        parent.__path__ = [path]
        sys.modules[name] = parent
    import_module(f"{_NAME}.message.avp")
    dictionary = import_module(f"{_NAME}.message.avp.dictionary")
    return {**dictionary.AVP_VENDOR_DICTIONARY, 0: dictionary.AVP_DICTIONARY}
