#include "beet.h"

#include <stdlib.h>
#include <string.h>

enum { PSEUDO_HEADER = 94, PSEUDO_HEADER_LENGTH = 4, PSEUDO_HEADER_UNIT = 8, OPTIONS_MAXIMUM = 40, NO_OPERATION = 1 };
enum { IPV4_HEADER_LENGTH = 20, IPV6_HEADER_LENGTH = 40, PACKET_MAXIMUM = 65535, TTL = 64 };
enum { SHELF_OCTETS = 128 * 1024 };

static size_t options_of(const uint8_t *packet) {
    return (packet[0] & 0x0F) * 4u - IPV4_HEADER_LENGTH;
}

/* Of the pseudo header before options. */
static size_t padding_before(size_t options) {
    return (0 - (PSEUDO_HEADER_LENGTH + options)) & (PSEUDO_HEADER_UNIT - 1u);
}

size_t beet_stripped_length(const uint8_t *packet, const struct flow *flow) {
    if (flow->version == 6)
        return flow->length - IPV6_HEADER_LENGTH;
    size_t options = options_of(packet), bare = flow->length - IPV4_HEADER_LENGTH;
    return options ? bare + PSEUDO_HEADER_LENGTH + padding_before(options) : bare;
}

uint8_t beet_strip(const uint8_t *packet, const struct flow *flow, uint8_t *payload) {
    if (flow->version == 6) {
        uint8_t next_header = packet[6];
        memmove(payload, packet + IPV6_HEADER_LENGTH, flow->length - IPV6_HEADER_LENGTH);
        return next_header;
    }
    size_t options = options_of(packet);
    uint8_t protocol = packet[9];
    if (!options) {
        memmove(payload, packet + IPV4_HEADER_LENGTH, flow->length - IPV4_HEADER_LENGTH);
        return protocol;
    }
    size_t padding = padding_before(options), header = PSEUDO_HEADER_LENGTH + padding;
    memmove(payload + header, packet + IPV4_HEADER_LENGTH, flow->length - IPV4_HEADER_LENGTH);
    payload[0] = protocol;
    payload[1] = (uint8_t)((header + options) / PSEUDO_HEADER_UNIT - 1);
    payload[2] = (uint8_t)padding;
    payload[3] = 0;
    memset(payload + PSEUDO_HEADER_LENGTH, NO_OPERATION, padding);
    return PSEUDO_HEADER;
}

static void put_address(uint8_t *at, flow_address address, size_t octets) {
    for (size_t left = octets; left--; address >>= 8)
        at[left] = (uint8_t)address;
}

static int restore_v6(uint8_t next_header, const uint8_t *payload, size_t length, const struct selector *local,
                      const struct selector *remote, uint8_t *packet) {
    if (length > PACKET_MAXIMUM)
        return -FAST_MALFORMED;
    put32(packet, 6u << 28);
    put16(packet + 4, (uint16_t)length);
    packet[6] = next_header;
    packet[7] = TTL;
    put_address(packet + 8, remote->start, 16);
    put_address(packet + 24, local->start, 16);
    memcpy(packet + IPV6_HEADER_LENGTH, payload, length);
    return (int)(IPV6_HEADER_LENGTH + length);
}

int beet_restore(uint8_t next_header, const uint8_t *payload, size_t length, const struct selector *local,
                 const struct selector *remote, uint8_t *packet) {
    if (local->version == 6)
        return restore_v6(next_header, payload, length, local, remote, packet);
    size_t options = 0;
    if (next_header == PSEUDO_HEADER) {
        if (length < PSEUDO_HEADER_UNIT)
            return -FAST_MALFORMED;
        size_t begin = PSEUDO_HEADER_LENGTH + (size_t)payload[2], end = (payload[1] + 1u) * PSEUDO_HEADER_UNIT;
        options = end - begin;
        if (begin >= end || options > OPTIONS_MAXIMUM || options % 4 || end > length)
            return -FAST_MALFORMED;
        next_header = payload[0];
        payload += begin;
        length -= begin;
    }
    size_t whole = IPV4_HEADER_LENGTH + length, header = IPV4_HEADER_LENGTH + options;
    if (whole > PACKET_MAXIMUM)
        return -FAST_MALFORMED;
    packet[0] = (uint8_t)(4 << 4 | header / 4);
    packet[1] = 0;
    put16(packet + 2, (uint16_t)whole);
    put32(packet + 4, 0x4000); /* DF: the identification means nothing then (RFC 6864) */
    packet[8] = TTL;
    packet[9] = next_header;
    put16(packet + 10, 0);
    put_address(packet + 12, remote->start, 4);
    put_address(packet + 16, local->start, 4);
    memcpy(packet + IPV4_HEADER_LENGTH, payload, length);
    uint32_t sum = 0;
    for (size_t at = 0; at < header; at += 2)
        sum += get16(packet + at);
    sum = (sum & 0xFFFF) + (sum >> 16);
    put16(packet + 10, (uint16_t)~(sum + (sum >> 16)));
    return (int)whole;
}

struct shelf {
    struct shelf *next;
    size_t used;
    uint8_t octets[SHELF_OCTETS];
};

uint8_t *shelves_place(struct shelves *shelves, size_t octets) {
    struct shelf *present = shelves->present;
    if (!present || SHELF_OCTETS - present->used < octets) {
        struct shelf **next = present ? &present->next : &shelves->first;
        if (!*next && !(*next = calloc(1, sizeof **next)))
            return NULL;
        shelves->present = present = *next;
        present->used = 0;
    }
    uint8_t *place = present->octets + present->used;
    present->used += octets;
    return place;
}

void shelves_clear(struct shelves *shelves) {
    shelves->present = shelves->first;
    if (shelves->first)
        shelves->first->used = 0;
}

void shelves_free(struct shelves *shelves) {
    for (struct shelf *shelf = shelves->first, *next; shelf; shelf = next) {
        next = shelf->next;
        free(shelf);
    }
    shelves->first = shelves->present = NULL;
}
