"""The one line that refuses a configuration, for tests to which its place in the file is nothing."""

from __future__ import annotations

import re

from protocols.errors import ConfigurationError


def without_line(error: ConfigurationError) -> str:
    """The refusal as people read it, its line number left out."""
    return str(error) if error.line is None else re.sub(rf":{error.line}: ", ": ", str(error), count=1)
