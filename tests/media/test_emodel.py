"""The E-model against values that ITU-T publishes, and by what its formulae say at chosen points."""

from __future__ import annotations

import pytest

from protocols.errors import LocalError
from protocols.media.emodel import (
    AMR_12_2,
    G711,
    G711_CONCEALED,
    Codec,
    Transmission,
    absolute_delay_impairment,
    effective_equipment_impairment,
    mos,
    rating,
    transmission_of,
)


def test_defaults_give_the_rating_that_the_recommendation_names() -> None:
    """G.107 §7.7: all parameters at their default give R = 93.2, which is 4.41 by Annex B."""
    value = rating(Transmission())
    assert value == pytest.approx(93.2, abs=0.01)
    assert mos(value) == pytest.approx(4.41, abs=0.005)


@pytest.mark.parametrize(("value", "opinion"), [(90, 4.34), (80, 4.03), (70, 3.60), (60, 3.10), (50, 2.58)])
def test_opinion_of_a_rating(value: float, opinion: float) -> None:
    """G.107 Table B.1."""
    assert mos(value) == pytest.approx(opinion, abs=0.007)


def test_opinion_stays_within_its_scale_and_rises() -> None:
    opinions = [mos(each / 2) for each in range(-20, 260)]
    assert (min(opinions), max(opinions)) == (1.0, 4.5)
    assert opinions == sorted(opinions)


@pytest.mark.parametrize(
    ("codec", "loss_ratio", "impairment"),
    [
        (G711, 0.0, 0.0),
        (G711, 0.01, 95 / 5.3),  # (7-29): 95 * 1 / (1 + 4.3)
        (G711_CONCEALED, 0.02, 190 / 27.1),
        (AMR_12_2, 0.0, 5.0),
        (AMR_12_2, 0.05, 5 + 450 / 15),
    ],
)
def test_packet_loss(codec: Codec, loss_ratio: float, impairment: float) -> None:
    call = transmission_of(codec, delay_interval=0.0, loss_ratio=loss_ratio)
    assert effective_equipment_impairment(call) == pytest.approx(impairment)
    assert rating(call) == pytest.approx(93.206 - impairment, abs=0.001)


def test_losses_in_bursts_are_worse() -> None:
    scattered = rating(transmission_of(AMR_12_2, delay_interval=0.1, loss_ratio=0.02))
    assert rating(transmission_of(AMR_12_2, delay_interval=0.1, loss_ratio=0.02, burst_ratio=2.0)) < scattered
    assert mos(rating(transmission_of(AMR_12_2, delay_interval=0.1, loss_ratio=1.0))) == 1.0


@pytest.mark.parametrize(("delay_ms", "impairment"), [(99.0, 0.0), (100.0, 0.0), (200.0, 3.04), (400.0, 24.07)])
def test_absolute_delay(delay_ms: float, impairment: float) -> None:
    """(7-27) at X = log2(Ta / 100 ms) of 0, 1 and 2."""
    assert absolute_delay_impairment(Transmission(absolute_delay_ms=delay_ms)) == pytest.approx(impairment, abs=0.05)


def test_longer_delay_is_never_better() -> None:
    """G.114: 150 ms hurts hardly anybody, 400 ms many."""
    ratings = [rating(transmission_of(G711_CONCEALED, delay_interval=delay / 100, loss_ratio=0)) for delay in range(60)]
    assert ratings == sorted(ratings, reverse=True)
    assert ratings[15] > 88
    assert ratings[40] < 65


def test_impossible_calls_are_refused() -> None:
    with pytest.raises(LocalError):
        transmission_of(G711, delay_interval=-1, loss_ratio=0)
    with pytest.raises(LocalError):
        transmission_of(G711, delay_interval=0, loss_ratio=1.1)
    with pytest.raises(LocalError, match="sidetone"):
        rating(Transmission(sidetone_masking=25.0))
