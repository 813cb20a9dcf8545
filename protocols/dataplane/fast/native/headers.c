#include "headers.h"

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
