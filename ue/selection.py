"""Which ePDG a UE goes to, as a pure machine (TS 23.402 §4.5.4, TS 24.302 §7.2.1): names asked, candidates given.

::

    begin            -> Tell, Resolve | (a candidate)
    resolved         -> Tell, Resolve | (a candidate) | (over)
    failed(why)      -> Tell, Resolve | (a candidate) | (over)

After each call there is a ``candidate`` to connect to, or a name is being looked up, or the selection is ``over``
and ``verdict`` says why in one sentence. At home: the home ePDG identifiers, then the FQDN of the home network.
Abroad: the network the UE is registered in if the selection information lists it, then what the visited country
demands by the NAPTR records of its name, then the networks listed of that country, then home. In each network the
Tracking/Location Area Identity FQDN comes before the Operator Identifier FQDN where that is wanted and possible.

How the UE knows its country and its 3GPP registration is left to the implementation by the standard; here both
are configured. Left out: the selection of an N3IWF instead (TS 24.502).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from protocols.names import RecordKind, Resolution
from protocols.path import Address
from protocols.threegpp.identity import (
    Plmn,
    epdg_fqdn,
    epdg_location_area_fqdn,
    epdg_plmn,
    epdg_tracking_area_fqdn,
    epdg_visited_country_fqdn,
)
from protocols.trace.records import JsonValue
from ue.commands import Resolve, Tell

CANDIDATES_MAXIMUM = 32  # addresses that one attach tries at most, whatever DNS says
NAMES_MAXIMUM = 32  # names that one attach looks up at most

SelectionCommand = Resolve | Tell


class FqdnKind(str, Enum):
    """Which FQDN a network wants to be found by (TS 31.102 §4.2.104: ePDG FQDN format)."""

    OPERATOR = "operator"
    LOCATION = "location"


class ConfiguredUse(str, Enum):
    """When the configured gateways are used: in the home network's place (the standard's), before all, or alone."""

    HOME = "home"
    FIRST = "first"
    ONLY = "only"


@dataclass(frozen=True, kw_only=True)
class PreferredPlmn:
    """An entry of the ePDG selection information; ``plmn`` ``None`` is any PLMN, ``priority`` 1 comes first."""

    plmn: Plmn | None
    fqdn: FqdnKind = FqdnKind.OPERATOR
    priority: int = 1


@dataclass(frozen=True, kw_only=True)
class SelectionPolicy:
    """What the UE knows: of its subscription, and of where it is.

    ``configured`` are home ePDG identifiers, addresses or names. ``registered`` is the network of its 3GPP access,
    with the area codes that broadcasts there. ``country`` is the MCC of where it is, by default that of
    ``registered``, else home; ``home_mccs`` are further MCCs of the home country.
    """

    home: Plmn
    configured: tuple[Address | str, ...] = ()
    configured_use: ConfiguredUse = ConfiguredUse.HOME
    preferred: tuple[PreferredPlmn, ...] = ()
    registered: Plmn | None = None
    country: str | None = None
    home_mccs: tuple[str, ...] = ()
    tracking_area: int | None = None
    tracking_area_5g: int | None = None
    location_area: int | None = None
    emergency: bool = False

    @property
    def where(self) -> str:
        """The MCC of the country the UE is in."""
        if self.country is not None:
            return self.country
        return self.home.mcc if self.registered is None else self.registered.mcc

    @property
    def at_home(self) -> bool:
        """Whether that is the home country."""
        return self.where in (self.home.mcc, *self.home_mccs)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A gateway to try: its address, the name it was found by, whose it is, and why it is its turn."""

    address: Address
    name: str | None
    plmn: Plmn | None
    why: str

    def view(self) -> dict[str, JsonValue]:
        """As data."""
        return {"address": str(self.address), "name": self.name, "why": self.why}

    def __str__(self) -> str:
        return str(self.address) if self.name is None else f"{self.address} ({self.name})"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of an address or name, in words: the trace of a selection."""

    what: str
    outcome: str
    why: str
    address: Address | None = None
    plmn: Plmn | None = None


@dataclass
class Barred:
    """Who is not asked any more until the UE is switched off and on (TS 24.302 §7.2.2.2), with the cause."""

    everywhere: str | None = None
    networks: dict[str, str] = field(default_factory=dict)
    gateways: dict[Address, str] = field(default_factory=dict)

    def bar_network(self, plmn: Plmn, cause: str) -> None:
        """No ePDG of this network."""
        self.networks[plmn.domain] = cause

    def why(self, address: Address | None, plmn: Plmn | None) -> str | None:
        """The cause that bars this gateway, or nothing."""
        if self.everywhere is not None:
            return self.everywhere
        network = None if plmn is None else self.networks.get(plmn.domain)
        return network or (None if address is None else self.gateways.get(address))


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One thing to do: take an address, look up a name, or ask what the country demands."""

    why: str
    plmn: Plmn | None = None
    address: Address | None = None
    name: str | None = None
    country: bool = False


class Selection:
    """One selection, for an access whose address has IP version ``version``."""

    def __init__(self, policy: SelectionPolicy, version: int, barred: Barred | None = None) -> None:
        self._policy = policy
        self._version = version
        self._barred = barred or Barred()
        self._steps: deque[_Step] = deque(self._plan())
        self._addresses: deque[Candidate] = deque()
        self._asked: _Step | None = None
        self._used: set[Address] = set()
        self._names = 0
        self.begun = False
        self.of_redirect = False
        self.candidate: Candidate | None = None
        self.over = False
        self.decisions: list[Decision] = []

    @classmethod
    def of_name(cls, name: str, version: int, why: str) -> Selection:
        """Among the addresses of one name, such as a redirect's (RFC 5685 §3)."""
        selection = cls(SelectionPolicy(home=_NOBODY, configured_use=ConfiguredUse.ONLY), version)
        selection._steps.append(_Step(why=why, name=name, plmn=epdg_plmn(name)))
        selection.of_redirect = True
        return selection

    @property
    def verdict(self) -> str:
        """Why there is no candidate, with all that were tried and what became of them."""
        tried = "; ".join(f"{each.what}: {each.outcome}" for each in self.decisions)
        return f"no gateway is left to try: {tried}" if tried else "there is no gateway to try"

    @property
    def temporary(self) -> bool:
        """Whether another attempt later may fare better: not everybody has barred the UE."""
        return any(self._barred.why(each.address, each.plmn) is None for each in self.decisions)

    @property
    def asks(self) -> str | None:
        """The name whose answer is waited for."""
        return None if self._asked is None else self._asked.name

    # --- what happens

    def begin(self) -> list[SelectionCommand]:
        """Look for the first candidate."""
        self.begun = True
        if self.of_redirect:
            return self._next()
        policy = self._policy
        place = "at home" if policy.at_home else "abroad"
        registered = "" if policy.registered is None else f", registered in {policy.registered}"
        listed = ", ".join(step.name or str(step.address) for step in self._steps if not step.country)
        text = f"A gateway is being selected {place} (MCC {policy.where}{registered}): {listed or 'by country'}."
        data: dict[str, JsonValue] = {"at_home": policy.at_home, "country": policy.where, "emergency": policy.emergency}
        return [Tell(name="gateway-selection", text=text, data=data), *self._next()]

    def resolved(self, resolution: Resolution) -> list[SelectionCommand]:
        """The answer to the name that was asked for; any other answer is late and means nothing."""
        step = self._asked
        if step is None or step.name != resolution.name:
            return []
        self._asked = None
        if step.country:
            return self._country_answered(step, resolution)
        fitting = [each for each in resolution.addresses if each.version == self._version]
        if not fitting:
            found = "no address" if not resolution.addresses else f"no IPv{self._version} address"
            return [self._turned_down(resolution.name, resolution.failure or found, step.why, step.plmn), *self._next()]
        for address in dict.fromkeys(fitting):
            self._addresses.append(Candidate(address=address, name=step.name, plmn=step.plmn, why=step.why))
        listed = ", ".join(str(each.address) for each in self._addresses)
        text = f"{step.name} has {listed}."
        data: dict[str, JsonValue] = {"name": step.name, "addresses": [str(each.address) for each in self._addresses]}
        return [Tell(name="gateway-resolved", text=text, data=data), *self._next()]

    def failed(self, why: str) -> list[SelectionCommand]:
        """The present candidate does not serve: on to the next."""
        candidate, self.candidate = self.candidate, None
        if candidate is None:
            return []
        return [self._no_longer(candidate, why), *self._next()]

    # --- steps

    def _next(self) -> list[SelectionCommand]:
        """The next address that may be tried, else the next name."""
        told: list[SelectionCommand] = []
        while self._addresses or self._steps:
            if self._addresses:
                candidate = self._addresses.popleft()
                if candidate.address in self._used:
                    continue
                barred = self._barred.why(candidate.address, candidate.plmn)
                if barred is not None:
                    told.append(self._no_longer(candidate, _not_again(barred)))
                    continue
                if len(self._used) >= CANDIDATES_MAXIMUM:
                    told.append(self._turned_down("further addresses", f"{CANDIDATES_MAXIMUM} were tried", "bound"))
                    break
                self._used.add(candidate.address)
                self.candidate = candidate
                text = f"The gateway {candidate} is tried: {candidate.why}."
                data: dict[str, JsonValue] = {
                    "address": str(candidate.address),
                    "name": candidate.name,
                    "why": candidate.why,
                }
                return [*told, Tell(name="gateway-selected", text=text, data=data)]
            step = self._steps.popleft()
            if step.address is not None:
                told += self._take_address(step)
                continue
            assert step.name is not None
            barred = None if step.country else self._barred.why(None, step.plmn)
            if barred is not None:
                told.append(self._turned_down(step.name, _not_again(barred), step.why, step.plmn))
                continue
            if self._names >= NAMES_MAXIMUM:
                told.append(self._turned_down("further names", f"{NAMES_MAXIMUM} were looked up", "bound"))
                break
            self._names += 1
            self._asked = step
            kinds = (RecordKind.NAPTR,) if step.country else (RecordKind.of_version(self._version),)
            return [*told, Resolve(name=step.name, kinds=kinds)]
        self.over = True
        return told

    def _take_address(self, step: _Step) -> list[SelectionCommand]:
        assert step.address is not None
        if step.address.version != self._version:
            return [self._turned_down(str(step.address), f"the access has IPv{self._version}", step.why)]
        self._addresses.append(Candidate(address=step.address, name=None, plmn=step.plmn, why=step.why))
        return []

    def _no_longer(self, candidate: Candidate, outcome: str) -> Tell:
        return self._turned_down(str(candidate), outcome, candidate.why, candidate.plmn, candidate.address)

    def _turned_down(
        self, what: str, outcome: str, why: str, plmn: Plmn | None = None, address: Address | None = None
    ) -> Tell:
        self.decisions.append(Decision(what=what, outcome=outcome, why=why, address=address, plmn=plmn))
        text = f"The gateway {what} is not used: {outcome}."
        return Tell(name="gateway-rejected", text=text, data={"gateway": what, "outcome": outcome, "why": why})

    # --- the order (TS 23.402 §4.5.4.4, §4.5.4.5)

    def _plan(self) -> Iterable[_Step]:
        policy = self._policy
        if policy.configured_use is not ConfiguredUse.HOME:
            yield from self._configured()
        if policy.configured_use is ConfiguredUse.ONLY:
            return
        if policy.at_home:
            yield from self._of_home()
            return
        registered = policy.registered
        if registered is not None and not _same(registered, policy.home):
            if policy.emergency:
                yield from self._of(registered, "the network that the UE is registered in (emergency)")
            elif self._entry(registered) is not None:
                yield from self._of(registered, "the network that the UE is registered in, and preferred (§4.5.4.4)")
        name = epdg_visited_country_fqdn(policy.where, emergency=policy.emergency)
        yield _Step(why="what the visited country demands (§4.5.4.5)", name=name, country=True)

    def _configured(self) -> Iterable[_Step]:
        for each in self._policy.configured:
            if isinstance(each, str):
                yield _Step(why="configured", name=each, plmn=self._policy.home)
            else:
                yield _Step(why="configured", address=each, plmn=self._policy.home)

    def _of_home(self) -> Iterable[_Step]:
        """Home ePDG identifiers first, then the FQDN of the home network."""
        if self._policy.configured_use is ConfiguredUse.HOME:
            yield from self._configured()
        yield from self._of(self._policy.home, "the home network")

    def _of(self, plmn: Plmn, why: str, operator_name: str | None = None) -> Iterable[_Step]:
        """A network's area FQDN, where it wants that and the UE is in it, then its operator FQDN."""
        policy = self._policy
        entry = self._entry(plmn)
        there = policy.registered is not None and _same(policy.registered, plmn)
        if there and entry is not None and entry.fqdn is FqdnKind.LOCATION:
            for name in self._area_names(plmn):
                yield _Step(why=f"{why}, by area", name=name, plmn=plmn)
        yield _Step(why=why, name=operator_name or epdg_fqdn(plmn, emergency=policy.emergency), plmn=plmn)

    def _area_names(self, plmn: Plmn) -> Iterable[str]:
        policy, emergency = self._policy, self._policy.emergency
        if policy.tracking_area_5g is not None:
            yield epdg_tracking_area_fqdn(plmn, policy.tracking_area_5g, fifth_generation=True, emergency=emergency)
        if policy.tracking_area is not None:
            yield epdg_tracking_area_fqdn(plmn, policy.tracking_area, emergency=emergency)
        if policy.location_area is not None:
            yield epdg_location_area_fqdn(plmn, policy.location_area, emergency=emergency)

    def _entry(self, plmn: Plmn) -> PreferredPlmn | None:
        """The network's own entry, else that for any network, which the home network is not."""
        own = [each for each in self._policy.preferred if each.plmn is not None and _same(each.plmn, plmn)]
        if own:
            return own[0]
        others = [each for each in self._policy.preferred if each.plmn is None]
        return others[0] if others and not _same(plmn, self._policy.home) else None

    def _ranked(self) -> list[Plmn]:
        """The networks of the visited country that the selection information names, by priority."""
        named = [each for each in self._policy.preferred if each.plmn is not None]
        ranked = sorted(named, key=lambda each: each.priority)
        return [each.plmn for each in ranked if each.plmn is not None and each.plmn.mcc == self._policy.where]

    def _country_answered(self, step: _Step, resolution: Resolution) -> list[SelectionCommand]:
        policy = self._policy
        if resolution.failure is not None:
            # §4.5.4.5: without an answer nobody knows what the country demands; the selection ends
            self._steps.clear()
            return [self._turned_down(resolution.name, resolution.failure, step.why), *self._next()]
        if not resolution.replacements:
            text = f"The country {policy.where} does not demand a gateway of its own ({resolution.name})."
            for plmn in self._ranked():
                self._steps.extend(self._of(plmn, "a preferred network of the visited country"))
            self._steps.extend(self._of_home())
            told = Tell(name="visited-country", text=text, data={"country": policy.where, "mandatory": False})
            return [told, *self._next()]
        return self._mandatory(step, resolution)

    def _mandatory(self, step: _Step, resolution: Resolution) -> list[SelectionCommand]:
        """Only networks of the answer: the one registered in, the preferred, the others in the order of the records."""
        policy = self._policy
        told: list[SelectionCommand] = []
        allowed: dict[str, tuple[Plmn, str]] = {}
        for name in resolution.replacements:
            plmn = epdg_plmn(name)
            if plmn is None or plmn.mcc != policy.where:
                told.append(self._turned_down(name, f"no ePDG name of the country {policy.where}", step.why))
            else:
                allowed.setdefault(plmn.domain, (plmn, name.rstrip(".")))
        order = [] if policy.registered is None else [policy.registered.domain]
        order += [plmn.domain for plmn in self._ranked()]
        order += list(allowed)
        for domain in dict.fromkeys(order):
            if domain in allowed:
                plmn, name = allowed[domain]
                why = "a network that the visited country demands"
                if policy.registered is not None and _same(policy.registered, plmn):
                    why = "the network that the UE is registered in, among those that the visited country demands"
                self._steps.extend(self._of(plmn, why, name))
        listed = ", ".join(str(plmn) for plmn, _ in allowed.values())
        text = f"The country {policy.where} demands a gateway of {listed or 'networks that are not to be made out'}."
        networks: list[JsonValue] = [str(plmn) for plmn, _ in allowed.values()]
        data: dict[str, JsonValue] = {"country": policy.where, "mandatory": True, "networks": networks}
        return [*told, Tell(name="visited-country", text=text, data=data), *self._next()]


_NOBODY = Plmn("000", "00")


def _same(one: Plmn, other: Plmn) -> bool:
    """Networks are the same where their domain names are: an MNC of two digits equals its padded form."""
    return one.domain == other.domain


def _not_again(cause: str) -> str:
    return f"not asked again until the UE is switched off and on ({cause})"
