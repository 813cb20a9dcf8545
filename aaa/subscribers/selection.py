"""Which subscribers a list holds: conditions that all have to be met."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, or_

from aaa.subscribers.schema import ApnRow, SubscriberRow
from protocols.threegpp.identity import Apn


@dataclass(frozen=True, kw_only=True, slots=True)
class SubscriberFilter:
    """Conditions on subscribers; without any, everybody is meant.

    ``text`` is looked for in IMSI, MSISDN, IMEI and the names of APNs.
    """

    imsi_prefix: str | None = None
    apn: Apn | None = None
    enabled: bool | None = None
    text: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The conditions in SQL."""
        found: list[ColumnElement[bool]] = []
        if self.imsi_prefix is not None:
            found.append(SubscriberRow.imsi.startswith(self.imsi_prefix, autoescape=True))
        if self.apn is not None:
            found.append(SubscriberRow.apns.any(ApnRow.name == str(self.apn)))
        if self.enabled is not None:
            found.append(SubscriberRow.enabled == self.enabled)
        if self.text is not None:
            columns = (SubscriberRow.imsi, SubscriberRow.msisdn, SubscriberRow.imei)
            found.append(
                or_(
                    *(column.contains(self.text, autoescape=True) for column in columns),
                    SubscriberRow.apns.any(ApnRow.name.contains(self.text.lower(), autoescape=True)),
                )
            )
        return found


EVERYBODY = SubscriberFilter()
