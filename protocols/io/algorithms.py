"""Algorithms in configuration files: a list of suites and of policies by name (RFC 7296 §3.3, §5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from protocols.ikev2.proposals import EspPolicy, IkePolicy

_Policy = IkePolicy | EspPolicy


def _known(policy: Callable[[Sequence[str]], _Policy], example: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            policy([text])
        except ValueError as error:
            context = {"example": example, "why": str(error)}
            raise PydanticCustomError("suite", "a suite such as {example}, or a policy: {why}", context)
        return text

    return check


IkeSuites = Annotated[
    tuple[Annotated[str, AfterValidator(_known(IkePolicy.of, "aes128-sha256-x25519"))], ...], Field(min_length=1)
]
EspSuites = Annotated[
    tuple[Annotated[str, AfterValidator(_known(EspPolicy.of, "aes128gcm16"))], ...], Field(min_length=1)
]
"""Names as written; ``IkePolicy.of`` and ``EspPolicy.of`` take them."""

DEFAULT_SUITES = ("default",)


def weakness(policies: Mapping[str, _Policy]) -> str | None:
    """One sentence that names the weak algorithms of policies, by their keys; ``None`` without any."""
    found = [
        f"{', '.join(names)} in {key}"
        for key, policy in policies.items()
        if (names := dict.fromkeys([name for suite in policy.weak for name in suite.weak]))
    ]
    return f"Weak algorithms are on: {'; '.join(found)}." if found else None
