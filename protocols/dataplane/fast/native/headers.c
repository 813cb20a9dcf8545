#include "headers.h"

enum { TCP = 6, TCP_HEADER_LENGTH = 20, TCP_DATA_OFFSET = 12, TCP_FLAGS = 13, TCP_CHECKSUM = 16, SYN = 0x02 };
enum { END_OF_OPTIONS = 0, NO_OPERATION = 1, MAXIMUM_SEGMENT_SIZE = 2, MSS_LENGTH = 4 };

/* RFC 6040 §4.2, figure 4, by inner and outer; -1: drop. */
static const int8_t DECAPSULATED[4][4] = {
    [NOT_ECT] = {NOT_ECT, NOT_ECT, NOT_ECT, -1},
    [ECT_1] = {ECT_1, ECT_1, ECT_1, CE},
    [ECT_0] = {ECT_0, ECT_1, ECT_0, CE},
    [CE] = {CE, CE, CE, CE},
};

/* "(!!!)" and "(!)" in the figure. */
static const bool UNUSED[4][4] = {
    [NOT_ECT] = {[ECT_0] = true, [ECT_1] = true, [CE] = true},
    [ECT_1] = {[ECT_0] = true},
    [CE] = {[ECT_1] = true},
};

bool ecn_is_unused(uint8_t inner, uint8_t outer) {
    return UNUSED[inner & ECN_MASK][outer & ECN_MASK];
}

int ecn_decapsulated(uint8_t inner, uint8_t outer) {
    return DECAPSULATED[inner & ECN_MASK][outer & ECN_MASK];
}

/* A checksum field when one word of what it covers becomes another (RFC 1624 §3, equation 3). */
static void change_checksum(uint8_t *field, uint16_t old, uint16_t new) {
    uint32_t total = (uint16_t)~get16(field) + (uint32_t)(uint16_t)~old + new;
    total = (total & 0xFFFF) + (total >> 16);
    total = (total & 0xFFFF) + (total >> 16);
    put16(field, (uint16_t)~total);
}

void set_ecn(uint8_t *packet, uint8_t ecn) {
    if (packet[0] >> 4 == 6) {
        packet[1] = (uint8_t)((packet[1] & 0xCF) | ecn << 4);
        return;
    }
    uint16_t old = get16(packet);
    packet[1] = (uint8_t)((packet[1] & ~ECN_MASK) | ecn);
    change_checksum(packet + 10, old, get16(packet));
}

bool is_syn(const uint8_t *packet, const struct flow *flow) {
    return flow->protocol == TCP && !flow->later && flow->length >= flow->transport + TCP_HEADER_LENGTH &&
           packet[flow->transport + TCP_FLAGS] & SYN;
}

static uint16_t swapped(uint16_t word) {
    return (uint16_t)(word << 8 | word >> 8);
}

bool mss_clamp(uint8_t *packet, const struct flow *flow, uint32_t maximum) {
    uint8_t *tcp = packet + flow->transport;
    size_t end = (tcp[TCP_DATA_OFFSET] >> 4) * 4u;
    if (end > flow->length - flow->transport)
        end = flow->length - flow->transport;
    size_t at = TCP_HEADER_LENGTH;
    while (at + 1 < end && tcp[at] != MAXIMUM_SEGMENT_SIZE) {
        size_t length = tcp[at] == NO_OPERATION ? 1 : tcp[at + 1];
        if (tcp[at] == END_OF_OPTIONS || (length < 2 && tcp[at] != NO_OPERATION))
            return false;
        at += length;
    }
    if (at + MSS_LENGTH > end || tcp[at + 1] != MSS_LENGTH || get16(tcp + at + 2) <= maximum)
        return false;
    uint16_t old = get16(tcp + at + 2), new = (uint16_t)maximum;
    put16(tcp + at + 2, new);
    /* The sum is over words from the header's start on: the octets may stand in two. */
    change_checksum(tcp + TCP_CHECKSUM, at % 2 ? swapped(old) : old, at % 2 ? swapped(new) : new);
    return true;
}
