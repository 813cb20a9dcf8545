"""Looking names up (RFC 1035, RFC 3403): dnspython's asynchronous resolver, bounded in time and in what it believes.

CNAME chains, truncation and repetition are dnspython's. Answers live in a small cache for as long as their TTL says,
failures not at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

from protocols.errors import BackendError
from protocols.names import ADDRESSES_MAXIMUM, REPLACEMENTS_MAXIMUM, RecordKind, Resolution
from protocols.path import Address

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.resolver

CACHE_MAXIMUM = 128  # questions
TTL_MAXIMUM = 86_400.0  # seconds; nobody is believed for longer than a day


class Resolver(Protocol):
    """Looks names up; never raises."""

    async def resolve(self, name: str, kinds: Sequence[RecordKind]) -> Resolution:
        """The addresses or replacement names of a name."""


@dataclass(frozen=True, kw_only=True)
class ResolverSettings:
    """``servers``: none for the system's. ``timeout``: seconds for one kind of record, all repetitions together."""

    servers: tuple[Address, ...] = ()
    port: int = 53
    timeout: float = 5.0


ResolverOpener = Callable[[ResolverSettings, Callable[[], float]], Resolver]


class DnsResolver:
    """The real one; ``clock`` is monotonic seconds."""

    def __init__(self, settings: ResolverSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._cache: OrderedDict[tuple[str, RecordKind], tuple[float, Resolution]] = OrderedDict()

    async def resolve(self, name: str, kinds: Sequence[RecordKind]) -> Resolution:
        """All kinds one after the other; a failure of one counts where no other has an answer."""
        found = Resolution(name=name)
        for kind in kinds:
            answer = await self._one(name, kind)
            found = Resolution(
                name=name,
                addresses=(*found.addresses, *answer.addresses)[:ADDRESSES_MAXIMUM],
                replacements=(*found.replacements, *answer.replacements)[:REPLACEMENTS_MAXIMUM],
                failure=found.failure or answer.failure,
            )
        return replace(found, failure=None) if found.addresses or found.replacements else found

    async def _one(self, name: str, kind: RecordKind) -> Resolution:
        key, now = (name.rstrip(".").lower(), kind), self._clock()
        kept = self._cache.get(key)
        if kept is not None and now < kept[0]:
            return replace(kept[1], name=name)
        # dnspython is imported at the first question: most nodes ask none, and it takes a while
        import dns.exception
        import dns.rdatatype
        import dns.resolver

        try:
            resolver = self._open()
            # With the dot: a search list of the system's would otherwise turn the name into another
            answer = await resolver.resolve(
                f"{name.rstrip('.')}.",
                dns.rdatatype.from_text(kind.value),
                lifetime=self._settings.timeout,
                raise_on_no_answer=False,
            )
        except dns.resolver.NXDOMAIN:
            return Resolution(name=name)
        except BackendError as error:
            return Resolution(name=name, failure=str(error))
        except dns.resolver.LifetimeTimeout:
            return Resolution(name=name, failure=f"no answer from DNS within {self._settings.timeout:g} s")
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return Resolution(name=name, failure=f"DNS failed: {_reason(error)}")
        resolution = _records(name, kind, answer)
        # that of CNAMEs on the way to the records counts, too
        lifetime = 0.0 if answer.rrset is None else min(float(answer.chaining_result.minimum_ttl), TTL_MAXIMUM)
        if lifetime > 0:
            self._cache[key] = (now + lifetime, resolution)
            self._cache.move_to_end(key)
            while len(self._cache) > CACHE_MAXIMUM:
                self._cache.popitem(last=False)
        return resolution

    def _open(self) -> dns.asyncresolver.Resolver:
        """Made at the first question: a system without name servers is a fault only then."""
        import dns.asyncresolver
        import dns.resolver

        if self._resolver is None:
            settings = self._settings
            try:
                resolver = dns.asyncresolver.Resolver(configure=not settings.servers)
            except dns.resolver.NoResolverConfiguration as error:
                raise BackendError("the system has no name servers; set dns.servers") from error
            if settings.servers:
                resolver.nameservers = [str(server) for server in settings.servers]
                resolver.port = settings.port
            self._resolver = resolver
        return self._resolver


def _records(name: str, kind: RecordKind, answer: dns.resolver.Answer) -> Resolution:
    """What is of the kind asked for, as many as are believed; NAPTR by order and preference (RFC 3403 §4.1)."""
    if answer.rrset is None:
        return Resolution(name=name)
    if kind is RecordKind.NAPTR:
        ranked = sorted(answer.rrset, key=lambda record: (record.order, record.preference))
        replacements = [str(record.replacement).rstrip(".") for record in ranked]
        return Resolution(name=name, replacements=tuple(each for each in replacements if each)[:REPLACEMENTS_MAXIMUM])
    addresses = tuple(ip_address(record.address) for record in answer.rrset)
    usable = tuple(each for each in addresses if not (each.is_unspecified or each.is_multicast))
    return Resolution(name=name, addresses=usable[:ADDRESSES_MAXIMUM])


def _reason(error: Exception) -> str:
    """One line; dnspython's own texts hold the whole question."""
    import dns.resolver

    if isinstance(error, dns.resolver.NoNameservers):
        return "no name server gives an answer that can be used"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
