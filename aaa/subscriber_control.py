"""Subscribers over the control socket: list, get, add, update, remove, import, export.

Keys are told only to who asks for them with ``secrets``, and go into no record and no log. A change of somebody who
is registered is told to the AAA server that serves the user (PPR, RTR: TS 29.273 §8.1.2.2.3, §8.1.2.3), which asks
the gateway to re-authorise or abort: what that came to is the answer's ``told``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aaa.hss.in_process import Bridge
from aaa.hss.node import HssNode
from aaa.hss.push import NotRegistered
from aaa.subscribers.database import SequenceGoesBack, SubscriberDatabase, SubscriberExists, UnknownImsi
from aaa.subscribers.document import DocumentError, changed_by, described, subscriber_from
from aaa.subscribers.forms.csv_form import parse_csv, write_csv
from aaa.subscribers.forms.entry import FileProblem, entries
from aaa.subscribers.forms.yaml_form import parse_yaml, write_yaml
from aaa.subscribers.selection import SubscriberFilter
from aaa.subscribers.subscriber import Subscriber
from protocols.errors import BackendError
from protocols.io.control import ControlError, Handler, Params
from protocols.threegpp.identity import Apn, Imsi
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue

LIST_LIMIT = 100
LIST_LIMIT_MAXIMUM = 1000
IMPORT_LIMIT = 1000  # subscribers of one call
PROBLEMS_SHOWN = 20
CSV, YAML = "csv", "yaml"


class SubscriberControl:
    """The methods of a process that has the subscriber database."""

    def __init__(self, database: SubscriberDatabase, bridge: Bridge, hss: HssNode, recorder: Recorder) -> None:
        self._database = database
        self._bridge = bridge
        self._hss = hss
        self._recorder = recorder

    def methods(self) -> Mapping[str, Handler]:
        """What ``ControlServer`` is given."""
        return {
            "subscribers.list": self._list,
            "subscribers.get": self._get,
            "subscribers.add": self._add,
            "subscribers.update": self._update,
            "subscribers.remove": self._remove,
            "subscribers.import": self._import,
            "subscribers.export": self._export,
        }

    # --- reading ------------------------------------------------------------------------------------

    async def _list(self, params: Params) -> JsonValue:
        """A page by ascending IMSI, without keys."""
        where, after, limit = _filter(params), _cursor(params), limit_of(params)

        def read() -> tuple[tuple[Subscriber, ...], int]:
            return self._database.page(after=after, limit=limit + 1, where=where), self._database.count(where)

        found, total = await self._bridge.run(read)
        page = found[:limit]
        return {
            "subscribers": [described(subscriber, secrets=False) for subscriber in page],
            "next": str(page[-1].imsi) if len(found) > limit else None,
            "total": total,
        }

    async def _get(self, params: Params) -> JsonValue:
        """One subscriber; K, OP and OPc with ``secrets`` only."""
        imsi, secrets = imsi_of(params), _flag(params, "secrets")
        subscriber = await self._bridge.run(lambda: self._database.get(imsi))
        if subscriber is None:
            raise _unknown(imsi)
        return described(subscriber, secrets=secrets)

    # --- changing -----------------------------------------------------------------------------------

    async def _add(self, params: Params) -> JsonValue:
        """Provision one."""
        subscriber = _subscriber(_document(params, "subscriber"))
        try:
            await self._bridge.run(lambda: self._database.add(subscriber))
        except SubscriberExists as error:
            raise ControlError("exists", str(error)) from None
        self._record("subscriber-added", f"Subscriber {subscriber.imsi} was provisioned.", subscriber.imsi)
        return described(subscriber, secrets=False)

    async def _update(self, params: Params) -> JsonValue:
        """Change the fields that ``changes`` has."""
        imsi, changes = imsi_of(params), _document(params, "changes")
        try:
            changed = await self._bridge.run(
                lambda: self._database.update(imsi, lambda subscriber: changed_by(changes, subscriber))
            )
        except UnknownImsi:
            raise _unknown(imsi) from None
        except DocumentError as error:
            raise ControlError("bad-params", str(error)) from None
        except SequenceGoesBack as error:
            raise ControlError("refused", str(error)) from None
        self._record("subscriber-changed", f"Subscriber {imsi} was changed: {', '.join(changes)}.", imsi)
        return {"subscriber": described(changed, secrets=False), "told": await self._tell(imsi)}

    async def _remove(self, params: Params) -> JsonValue:
        """Forget one, and end what the user has."""
        imsi = imsi_of(params)
        if not await self._bridge.run(lambda: self._database.remove(imsi)):
            raise _unknown(imsi)
        self._record("subscriber-removed", f"Subscriber {imsi} was removed.", imsi)
        return {"imsi": str(imsi), "told": await self._tell(imsi)}

    async def _import(self, params: Params) -> JsonValue:
        """Provision many, or with one problem none; ``over`` those that are there."""
        over = _flag(params, "over")
        defaults = _document(params, "defaults") if params.get("defaults") is not None else {}
        found = await self._bridge.run(lambda: _imported(params, defaults))

        def store() -> frozenset[Imsi]:
            there = self._database.existing(tuple(found)) if over else frozenset[Imsi]()
            self._database.put(tuple(found.values()), over=over)
            return there

        try:
            there = await self._bridge.run(store)
        except SubscriberExists as error:
            raise ControlError("exists", str(error)) from None
        text = f"{len(found)} subscribers were imported, {len(there)} of them over older ones."
        self._recorder.event("subscribers-imported", text, {"count": len(found), "replaced": len(there)})
        told = 0
        for imsi in there:
            told += await self._tell(imsi) is not None
        return {"added": len(found) - len(there), "replaced": len(there), "told": told}

    async def _export(self, params: Params) -> JsonValue:
        """A page as text of a form; keys with ``secrets`` only. The pages of one export make one file."""
        where, after, limit, secrets = _filter(params), _cursor(params), limit_of(params), _flag(params, "secrets")
        form = _form(params)

        def write() -> tuple[str, Imsi | None]:
            found = self._database.page(after=after, limit=limit + 1, where=where)
            pieces = (write_csv if form == CSV else write_yaml)(found[:limit], secrets=secrets)
            head = next(pieces)
            following = found[limit - 1].imsi if len(found) > limit else None
            return ("" if after is not None else head) + "".join(pieces), following

        text, following = await self._bridge.run(write)
        return {"text": text, "next": None if following is None else str(following)}

    # --- inside -------------------------------------------------------------------------------------

    async def _tell(self, imsi: Imsi) -> JsonValue:
        """Tell the AAA server that serves the user; what it answered, ``None`` where none does."""
        try:
            return str(await self._hss.profile_changed(imsi))
        except NotRegistered:
            return None
        except BackendError as error:
            return str(error)

    def _record(self, name: str, text: str, imsi: Imsi) -> None:
        self._recorder.event(name, text, {"imsi": str(imsi)}, str(imsi))


def _imported(params: Params, defaults: Mapping[str, JsonValue]) -> dict[Imsi, Subscriber]:
    """The subscribers of a list, or of text in a form; every problem in one ``ControlError``."""
    given, text = params.get("subscribers"), params.get("text")
    documents: Iterable[tuple[int, dict[str, object] | DocumentError]]
    if isinstance(text, str) and given is None:
        where, form = "line ", _form(params)
        documents = parse_csv(text, form) if form == CSV else parse_yaml(text, form)
    elif isinstance(given, list) and 1 <= len(given) <= IMPORT_LIMIT and text is None:
        where = "subscribers."
        documents = (
            (number, {**each} if isinstance(each, dict) else DocumentError("item", "no object", "a subscriber"))
            for number, each in enumerate(given)
        )
    else:
        raise ControlError("bad-params", f"subscribers is a list of 1 to {IMPORT_LIMIT}, or text is CSV or YAML")
    found: dict[Imsi, Subscriber] = {}
    problems: list[str] = []
    try:
        for entry in entries(documents, defaults):
            if entry.subscriber is not None:
                found[entry.subscriber.imsi] = entry.subscriber
            else:
                problems.append(f"{where}{entry.line}: {entry.problem}")
    except FileProblem as error:
        raise ControlError("bad-params", str(error)) from None
    if problems:
        more = f"; and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
        raise ControlError("bad-params", "; ".join(problems[:PROBLEMS_SHOWN]) + more)
    if not found:
        raise ControlError("bad-params", "there is no subscriber in it")
    return found


def _form(params: Params) -> str:
    form = params.get("format")
    if form not in (CSV, YAML):
        raise ControlError("bad-params", f"format is {CSV} or {YAML}")
    return str(form)


def _unknown(imsi: Imsi) -> ControlError:
    return ControlError("not-found", f"no subscriber has IMSI {imsi}")


def _subscriber(document: Mapping[str, JsonValue]) -> Subscriber:
    try:
        return subscriber_from(document)
    except DocumentError as error:
        raise ControlError("bad-params", str(error)) from None


def _document(params: Params, name: str) -> dict[str, JsonValue]:
    value = params.get(name)
    if not isinstance(value, dict):
        raise ControlError("bad-params", f"{name} is an object with fields of a subscriber")
    return value


def _flag(params: Params, name: str) -> bool:
    value = params.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ControlError("bad-params", f"{name} is true or false")
    return value


def _text(params: Params, name: str) -> str | None:
    value = params.get(name)
    if value is not None and not isinstance(value, str):
        raise ControlError("bad-params", f"{name} is text")
    return value or None


def _filter(params: Params) -> SubscriberFilter:
    apn, enabled = _text(params, "apn"), params.get("enabled")
    if enabled is not None and not isinstance(enabled, bool):
        raise ControlError("bad-params", "enabled is true or false")
    try:
        return SubscriberFilter(
            imsi_prefix=_text(params, "imsi"),
            apn=None if apn is None else Apn(apn),
            enabled=enabled,
            text=_text(params, "text"),
        )
    except ValueError:
        raise ControlError("bad-params", "apn is a name such as internet") from None


def _cursor(params: Params) -> Imsi | None:
    cursor = _text(params, "cursor")
    try:
        return None if cursor is None else Imsi(cursor)
    except ValueError:
        raise ControlError("bad-params", "cursor is what an earlier answer held in next") from None


def imsi_of(params: Params) -> Imsi:
    """The parameter ``imsi``."""
    text = params.get("imsi")
    try:
        return Imsi(text if isinstance(text, str) else "")
    except ValueError:
        raise ControlError("bad-params", "imsi is 6 to 15 digits") from None


def limit_of(params: Params) -> int:
    """The parameter ``limit``."""
    limit = params.get("limit") or LIST_LIMIT
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIST_LIMIT_MAXIMUM:
        raise ControlError("bad-params", f"limit is a number from 1 to {LIST_LIMIT_MAXIMUM}")
    return limit
