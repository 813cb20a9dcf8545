"""The E-model (ITU-T G.107, 06/2015): transmission rating R of narrowband telephony and its mean opinion score.

R = Ro - Is - Id - Ie,eff + A (§7.1). What a laboratory of IP packets varies is the delay, the codec and the
packet loss; everything else has the default of Table 2. Left out: the wideband scale (G.107.1), and sidetone
ratings outside 9..20 dB, which Table 2's default is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log2, log10, sqrt

from protocols.errors import LocalError

RATING_MAXIMUM = 100.0
MOS_MINIMUM, MOS_MAXIMUM = 1.0, 4.5  # Annex B
BURST_RATIO_MAXIMUM = 8.0  # Table 2: the permitted range; above 2 the model holds for losses below 2 % (note 4)


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A codec: Ie without loss, Bpl (G.113 Appendix I), and its own delay: a frame and the look-ahead, seconds."""

    name: str
    equipment_impairment: float
    loss_robustness: float
    frame_interval: float = 0.02
    look_ahead_interval: float = 0.0


# G.113 Appendix I, Tables I.1 and I.3. AMR at 12.2 kbit/s is GSM-EFR bit by bit (TS 26.071), whose values it has.
AMR_12_2 = Codec(name="AMR 12.2", equipment_impairment=5.0, loss_robustness=10.0, look_ahead_interval=0.005)
G711 = Codec(name="G.711", equipment_impairment=0.0, loss_robustness=4.3)
G711_CONCEALED = Codec(name="G.711 with concealment", equipment_impairment=0.0, loss_robustness=25.1)


@dataclass(frozen=True, kw_only=True)
class Transmission:
    """The parameters of Table 2 with its defaults; decibels as there, delays in milliseconds, loss in percent."""

    send_loudness: float = 8.0  # SLR
    receive_loudness: float = 2.0  # RLR
    sidetone_masking: float = 15.0  # STMR
    d_factor_send: float = 3.0  # Ds
    d_factor_receive: float = 3.0  # Dr
    talker_echo_loudness: float = 65.0  # TELR
    weighted_echo_path_loss: float = 110.0  # WEPL
    echo_delay_ms: float = 0.0  # T, one way
    round_trip_ms: float = 0.0  # Tr
    absolute_delay_ms: float = 0.0  # Ta
    quantizing_units: float = 1.0  # qdu
    equipment_impairment: float = 0.0  # Ie
    loss_robustness: float = 4.3  # Bpl
    loss_percent: float = 0.0  # Ppl
    burst_ratio: float = 1.0  # BurstR
    circuit_noise: float = -70.0  # Nc
    noise_floor: float = -64.0  # Nfor
    room_noise_send: float = 35.0  # Ps
    room_noise_receive: float = 35.0  # Pr
    advantage: float = 0.0  # A
    delay_sensitivity: float = 1.0  # sT
    perceivable_delay_ms: float = 100.0  # mT


def transmission_of(
    codec: Codec, *, delay_interval: float, loss_ratio: float, burst_ratio: float = 1.0
) -> Transmission:
    """A call of this codec with a one-way delay from mouth to ear (T = Ta, Tr = 2T) and a loss ratio."""
    if delay_interval < 0 or not 0 <= loss_ratio <= 1 or burst_ratio < 1:
        raise LocalError(f"a call with {delay_interval} s, a loss ratio of {loss_ratio} and bursts of {burst_ratio}")
    delay_ms = delay_interval * 1000
    return Transmission(
        echo_delay_ms=delay_ms,
        round_trip_ms=2 * delay_ms,
        absolute_delay_ms=delay_ms,
        equipment_impairment=codec.equipment_impairment,
        loss_robustness=codec.loss_robustness,
        loss_percent=loss_ratio * 100,
        burst_ratio=min(burst_ratio, BURST_RATIO_MAXIMUM),
    )


def rating(call: Transmission) -> float:
    """R (§7.1), kept within 0 and 100."""
    noise = _noise_sum(call)
    signal_to_noise = 15 - 1.5 * (call.send_loudness + noise)  # Ro, (7-2)
    sidetone = _sidetone(call)
    value = (
        signal_to_noise
        - _simultaneous(call, noise, signal_to_noise, sidetone)
        - _delay(call, noise, signal_to_noise)
        - effective_equipment_impairment(call)
        + call.advantage
    )
    return max(0.0, min(RATING_MAXIMUM, value))


def mos(transmission_rating: float) -> float:
    """The estimated mean opinion score of a rating (Annex B, (B-4))."""
    value = transmission_rating
    if value <= 0:
        return MOS_MINIMUM
    if value >= RATING_MAXIMUM:
        return MOS_MAXIMUM
    # The cubic dips below 1 for ratings under 6.5: nothing is worse than 1.
    return max(MOS_MINIMUM, 1 + 0.035 * value + value * (value - 60) * (100 - value) * 7e-6)


def effective_equipment_impairment(call: Transmission) -> float:
    """Ie,eff (§7.5, (7-29)): codec and packet loss together."""
    loss, own = call.loss_percent, call.equipment_impairment
    return own + (95 - own) * loss / (loss / call.burst_ratio + call.loss_robustness)


def _noise_sum(call: Transmission) -> float:
    """No (§7.2): circuit noise, room noise at both sides and the noise floor, dBm0p."""
    overall = call.send_loudness + call.receive_loudness
    send = call.room_noise_send - call.send_loudness - call.d_factor_send - 100
    send += 0.004 * (call.room_noise_send - overall - call.d_factor_send - 14) ** 2
    listener_sidetone = call.sidetone_masking + call.d_factor_receive
    effective = call.room_noise_receive + 10 * log10(1 + 10 ** ((10 - listener_sidetone) / 10))
    receive = call.receive_loudness - 121 + effective + 0.008 * (effective - 35) ** 2
    floor = call.noise_floor + call.receive_loudness
    powers: float = sum(10 ** (each / 10) for each in (call.circuit_noise, send, receive, floor))
    return 10 * log10(powers)


def _sidetone(call: Transmission) -> float:
    """Ist (§7.3): impairment by non-optimum sidetone."""
    echo = exp(-call.echo_delay_ms / 4) * 10 ** (-call.talker_echo_loudness / 10)
    masking = -10 * log10(10 ** (-call.sidetone_masking / 10) + echo)
    impairment: float = (
        12 * (1 + ((masking - 13) / 6) ** 8) ** (1 / 8)
        - 28 * (1 + ((masking + 1) / 19.4) ** 35) ** (1 / 35)
        - 13 * (1 + ((masking - 3) / 33) ** 13) ** (1 / 13)
        + 29
    )
    return impairment


def _simultaneous(call: Transmission, noise: float, signal_to_noise: float, sidetone: float) -> float:
    """Is (§7.3): loudness, sidetone and quantizing distortion."""
    overall = call.send_loudness + call.receive_loudness
    excess = overall + 0.2 * (64 + noise - call.receive_loudness)
    loudness: float = 20 * ((1 + (excess / 8) ** 8) ** (1 / 8) - excess / 8)
    quantizing = 37 - 15 * log10(call.quantizing_units)
    g = 1.07 + 0.258 * quantizing + 0.0602 * quantizing**2
    y = (signal_to_noise - 100) / 15 + 46 / 8.4 - g / 9
    z = 46 / 30 - g / 40
    return loudness + sidetone + 15 * log10(1 + 10**y + 10**z)


def _delay(call: Transmission, noise: float, signal_to_noise: float) -> float:
    """Id (§7.4): talker echo, listener echo, too long absolute delay."""
    if not 9 <= call.sidetone_masking <= 20:
        raise LocalError(f"a sidetone masking rating of {call.sidetone_masking} dB; 9 to 20 are computed")
    delay = call.echo_delay_ms
    talker = 0.0
    if delay >= 1:  # below, talker echo is sidetone (§7.4)
        valued = call.talker_echo_loudness - 40 * log10((1 + delay / 10) / (1 + delay / 150)) + 6 * exp(-0.3 * delay**2)
        margin = -1.5 * (noise - call.receive_loudness) - (80 + 2.5 * (valued - 14))
        talker = (margin / 2 + sqrt(margin**2 / 4 + 100) - 1) * (1 - exp(-delay))
    heard: float = 10.5 * (call.weighted_echo_path_loss + 7) * (call.round_trip_ms + 1) ** -0.25
    difference = signal_to_noise - heard
    listener = difference / 2 + sqrt(difference**2 / 4 + 169)
    return talker + listener + absolute_delay_impairment(call)


def absolute_delay_impairment(call: Transmission) -> float:
    """Idd (§7.4, (7-27)): conversation suffers although echo is cancelled."""
    if call.absolute_delay_ms <= call.perceivable_delay_ms:
        return 0.0
    x = log2(call.absolute_delay_ms / call.perceivable_delay_ms)
    power = 6 * call.delay_sensitivity
    impairment: float = 25 * ((1 + x**power) ** (1 / power) - 3 * (1 + (x / 3) ** power) ** (1 / power) + 2)
    return impairment
