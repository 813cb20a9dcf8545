/* What traffic selectors look at in a packet (RFC 4301 §4.4.1.1), as protocols/ip.py reads it, and the selectors. */
#ifndef FAST_FLOW_H
#define FAST_FLOW_H

#include "core.h"

typedef unsigned __int128 flow_address;

struct flow {
    flow_address source, destination;
    size_t length; /* the packet's own */
    uint8_t version, protocol;
    bool later;    /* a fragment, and not the first one */
    bool fragment; /* of another packet; an atomic one (RFC 6946) is none */
    size_t transport; /* where the upper layer's header begins, unless later */
    bool ports; /* false: none to show, another protocol or later */
    uint16_t source_port, destination_port;
};

struct selector {
    flow_address start, end;
    uint16_t start_port, end_port;
    uint8_t version, protocol;
};

static inline uint16_t get16(const uint8_t *at) {
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static inline void put16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void put32(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

static inline void put64(uint8_t *at, uint64_t value) {
    put32(at, (uint32_t)(value >> 32));
    put32(at + 4, (uint32_t)value);
}

/* An address of 4 or 16 octets as an integer. */
static inline flow_address get_address(const uint8_t *at, uint8_t version) {
    if (version == 4)
        return get32(at);
    flow_address high = (uint64_t)get32(at) << 32 | get32(at + 4);
    return high << 64 | ((uint64_t)get32(at + 8) << 32 | get32(at + 12));
}

/* Read a packet; false when it is no IP packet or longer than its octets. */
bool flow_read(struct flow *flow, const uint8_t *packet, size_t length);

/* Whether one of the selectors selects this end of a packet. */
bool selectors_match(const struct selector *selectors, size_t count, const struct flow *flow, flow_address address,
                     uint16_t port);

/* Whether one of the selectors selects this end of a packet at some port. */
bool selectors_match_but_for_port(const struct selector *selectors, size_t count, const struct flow *flow,
                                  flow_address address);

#endif
