"""Which peer a request goes to (RFC 6733 §2.7, §6.1.5, §6.1.6): the routing table, load sharing, redirects.

Static entries come from the configuration, one for each peer; dynamic ones from redirect agents (§6.1.8, §6.12 to
§6.14), with the usage and the lifetime that the agent gave. Left out: the table of an agent (actions RELAY, PROXY
and REDIRECT of our own).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from protocols.diameter.capabilities import Capabilities
from protocols.diameter.codec import DiameterMessage, RequestError
from protocols.diameter.dictionary import ResultCode
from protocols.diameter.uri import DiameterUri
from protocols.errors import DecodeError

REDIRECTIONS_LIMIT = 10_000  # cached at a time; RFC 6733 leaves it to us


class RedirectHostUsage(IntEnum):
    """Redirect-Host-Usage (RFC 6733 §6.13)."""

    DONT_CACHE = 0
    ALL_SESSION = 1
    ALL_REALM = 2
    REALM_AND_APPLICATION = 3
    ALL_APPLICATION = 4
    ALL_HOST = 5
    ALL_USER = 6


_PRECEDENCE = (  # RFC 6733 §6.13
    RedirectHostUsage.ALL_SESSION,
    RedirectHostUsage.ALL_USER,
    RedirectHostUsage.REALM_AND_APPLICATION,
    RedirectHostUsage.ALL_REALM,
    RedirectHostUsage.ALL_APPLICATION,
    RedirectHostUsage.ALL_HOST,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A static entry: what may be sent to ``host``, and before or beside which others.

    No ``realms``: the peer's own and, through a relay, all. No ``applications``: all that the peer serves. Of the
    entries that fit a request those of the lowest ``priority`` share the load by ``weight``.
    """

    host: str
    realms: frozenset[str] = frozenset()
    applications: frozenset[int] = frozenset()
    priority: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Redirection:
    """A dynamic entry: the hosts of a redirect indication, until when."""

    hosts: tuple[str, ...]
    expires: float


_CacheKey = tuple[RedirectHostUsage, str, int]


class RoutingTable:
    """Chooses among peers; hosts compare without case (RFC 6733 §5.6.4)."""

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self._routes: dict[str, Route] = {}
        self._credits: dict[str, int] = {}
        self._redirections: OrderedDict[_CacheKey, Redirection] = OrderedDict()
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        """Enter a static route, in place of the one there was to its host."""
        self._routes[route.host.lower()] = route

    def route(self, host: str) -> Route:
        """The entry of a peer, a plain one for those that connected to us."""
        return self._routes.get(host.lower()) or Route(host=host)

    # Routing

    def choose(
        self, message: DiameterMessage, present: Sequence[Capabilities], now: float, *, tried: Collection[str] = ()
    ) -> str | None:
        """The host of the next hop among the peers in service; ``None`` without a route.

        ``tried`` are hosts, in small letters, that had the request already.
        """
        candidates = self.candidates(message, present, now, tried=tried)
        if not candidates:
            return None
        if len(candidates) == 1:
            return candidates[0]
        # Smooth weighted round robin: every candidate earns its weight, the richest pays for all
        for host in candidates:
            self._credits[host] = self._credits.get(host, 0) + self.route(host).weight
        chosen = max(candidates, key=lambda host: self._credits[host])
        self._credits[chosen] -= sum(self.route(host).weight for host in candidates)
        return chosen

    def candidates(
        self, message: DiameterMessage, present: Sequence[Capabilities], now: float, *, tried: Collection[str] = ()
    ) -> tuple[str, ...]:
        """The hosts that share such requests now, in small letters."""
        usable = {
            peer.host.lower(): peer
            for peer in present
            if peer.host.lower() not in tried and self._may_carry(peer, message.application)
        }
        destination = _text(message, "Destination-Host")
        # RFC 6733 §6.1.5: a peer that is the destination itself gets the request
        if destination in usable:
            return (destination,)
        for usage in _PRECEDENCE[:-1] if self._redirections else ():
            redirected = self._redirected(_key(usage, message), usable, now)
            if redirected is not None:
                return (redirected,)
        ranked: dict[tuple[int, int, int], list[str]] = {}
        for host, peer in usable.items():
            rank = self._rank(peer, destination, _text(message, "Destination-Realm"))
            if rank is not None:
                ranked.setdefault(rank, []).append(host)
        best = ranked[min(ranked)] if ranked else []
        away = [self._redirected((RedirectHostUsage.ALL_HOST, host, 0), usable, now) or host for host in best]
        return tuple(dict.fromkeys(away))

    def _may_carry(self, peer: Capabilities, application: int) -> bool:
        """RFC 6733 §2.7: the next hop must have advertised the application, or to be a relay."""
        allowed = self.route(peer.host).applications
        return peer.supports(application) and (not allowed or application in allowed)

    def _rank(self, peer: Capabilities, destination: str, realm: str) -> tuple[int, int, int] | None:
        """Tier, priority, and a server before an agent; ``None`` when nothing leads there.

        The last tier is the default entry of RFC 6733 §2.7: peers without configured realms.
        """
        route = self.route(peer.host)
        if route.realms:
            return (0, route.priority, 0) if realm in route.realms else None
        if peer.is_relay:
            return (0, route.priority, 1)
        if peer.realm.lower() == realm:
            # Another server than the destination: it can do with the request only if it is a proxy
            return (0 if not destination else 1, route.priority, 0)
        return (2, route.priority, 0)

    # Redirect indications

    def learn(self, request: DiameterMessage, answer: DiameterMessage, *, by: str, now: float) -> tuple[str, ...]:
        """Take DIAMETER_REDIRECT_INDICATION of ``by``: the hosts it names, in small letters, in its order.

        Hosts that are no DiameterURI or not spoken to here are left out. A usage other than DONT_CACHE is
        remembered for Redirect-Max-Cache-Time (§6.14), not at all without it.
        """
        hosts = _redirect_hosts(answer)
        usage, lifetime = _number(answer, "Redirect-Host-Usage"), _number(answer, "Redirect-Max-Cache-Time")
        if hosts and lifetime and usage in _PRECEDENCE:
            kind = RedirectHostUsage(usage)
            key = (kind, by.lower(), 0) if kind is RedirectHostUsage.ALL_HOST else _key(kind, request)
            if key is not None:
                self._redirections.pop(key, None)
                self._redirections[key] = Redirection(hosts, now + lifetime)
            while len(self._redirections) > REDIRECTIONS_LIMIT:
                self._redirections.popitem(last=False)
        return hosts

    def lost(self, host: str) -> None:
        """A host went away: entries that lead to it alone MUST be deleted (RFC 6733 §6.14)."""
        host = host.lower()
        self._credits.pop(host, None)
        for key, entry in list(self._redirections.items()):
            if host in entry.hosts:
                rest = tuple(each for each in entry.hosts if each != host)
                if rest:
                    self._redirections[key] = Redirection(rest, entry.expires)
                else:
                    del self._redirections[key]

    @property
    def redirections(self) -> int:
        """Dynamic entries."""
        return len(self._redirections)

    def _redirected(self, key: _CacheKey | None, usable: Collection[str], now: float) -> str | None:
        entry = None if key is None else self._redirections.get(key)
        if key is None or entry is None:
            return None
        if entry.expires <= now:
            del self._redirections[key]
            return None
        return next((host for host in entry.hosts if host in usable), None)


def is_redirect(answer: DiameterMessage) -> bool:
    """Whether an answer is a redirect indication (RFC 6733 §6.12): the E flag and 3006."""
    return answer.error and _number(answer, "Result-Code") == ResultCode.DIAMETER_REDIRECT_INDICATION


def _key(usage: RedirectHostUsage, message: DiameterMessage) -> _CacheKey | None:
    """What such entries are found by; ``None`` for a message without it."""
    if usage is RedirectHostUsage.ALL_APPLICATION:
        return usage, "", message.application
    if usage in (RedirectHostUsage.ALL_SESSION, RedirectHostUsage.ALL_USER):
        octets = message.octets("Session-Id" if usage is RedirectHostUsage.ALL_SESSION else "User-Name")
        return None if not octets else (usage, octets.hex(), 0)
    realm = _text(message, "Destination-Realm")
    application = message.application if usage is RedirectHostUsage.REALM_AND_APPLICATION else 0
    return (usage, realm, application) if realm else None


def _redirect_hosts(answer: DiameterMessage) -> tuple[str, ...]:
    hosts: list[str] = []
    for avp in answer.find_all("Redirect-Host"):
        try:
            host = DiameterUri.parse(avp.data.decode("ascii")).host
        except (DecodeError, UnicodeDecodeError):
            continue
        if host not in hosts:
            hosts.append(host)
    return tuple(hosts)


def _text(message: DiameterMessage, name: str) -> str:
    """A text of a message in small letters; empty when it is absent or none."""
    try:
        return (message.text(name) or "").lower()
    except RequestError:
        return ""


def _number(message: DiameterMessage, name: str) -> int:
    try:
        return message.integer(name) or 0
    except RequestError:
        return 0
