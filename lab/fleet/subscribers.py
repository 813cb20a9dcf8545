"""A fleet's subscribers as the HSS knows them, and the files of them that ``aaa subscriber import`` takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

from aaa.subscribers import ApnSubscription, Subscriber
from aaa.subscribers.forms.csv_form import write_csv
from aaa.subscribers.forms.yaml_form import write_yaml
from lab.fleet.rule import SubscriberRule
from protocols.errors import BackendError, ConfigurationError
from protocols.threegpp.identity import Apn


class SubscriberForm(str, Enum):
    """A file that ``aaa subscriber import`` takes: CSV has no APNs (``--apn`` there), YAML has."""

    CSV = ".csv"
    YAML = ".yaml"


def subscriber(rule: SubscriberRule, index: int, apns: Sequence[str]) -> Subscriber:
    """A UE as the HSS knows it; the first of the APNs is its default."""
    k, opc = rule.keys(index)
    subscriptions = [ApnSubscription(apn=Apn(name), is_default=position == 0) for position, name in enumerate(apns)]
    return Subscriber(imsi=rule.imsi(index), k=k, opc=opc, apns=tuple(subscriptions))


def subscribers(rule: SubscriberRule, count: int, apns: Sequence[str]) -> Iterator[Subscriber]:
    """The first ``count`` of them."""
    return (subscriber(rule, index, apns) for index in range(count))


def export(rule: SubscriberRule, count: int, apns: Sequence[str], output: Path) -> None:
    """Write the file that ``aaa subscriber import`` takes; it holds keys, so it is for its owner only."""
    try:
        form = SubscriberForm(output.suffix)
    except ValueError:
        raise ConfigurationError(
            file="command line", key="--output", value=output.name, expected="a name that ends in .csv or .yaml"
        ) from None
    rule.imsi(count - 1)  # before anything is written
    write = write_csv if form is SubscriberForm.CSV else write_yaml
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.writelines(write(subscribers(rule, count, apns), secrets=True))
    except OSError as error:
        raise BackendError(f"{output}: {error.strerror}") from error
