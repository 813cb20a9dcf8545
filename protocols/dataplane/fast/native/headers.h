/* What a tunnel does about DSCP and ECN (RFC 4301 §5.1.2, RFC 6040 §4), as protocols/esp/traffic_class.py does it. */
#ifndef FAST_HEADERS_H
#define FAST_HEADERS_H

#include "flow.h"

enum { NOT_ECT = 0, ECT_1 = 1, ECT_0 = 2, CE = 3, ECN_MASK = 3 }; /* RFC 3168 §5 */

/* The traffic class of a packet that flow_read takes. */
static inline uint8_t traffic_class_of(const uint8_t *packet) {
    return packet[0] >> 4 == 4 ? packet[1] : (uint8_t)(packet[0] << 4 | packet[1] >> 4);
}

/* What the outer header gets: the inner ECN, and dscp or (FAST_INNER_DSCP) the inner one. */
static inline uint8_t outer_traffic_class(const uint8_t *packet, int dscp) {
    uint8_t inner = traffic_class_of(packet);
    return dscp == FAST_INNER_DSCP ? inner : (uint8_t)(dscp << 2 | (inner & ECN_MASK));
}

/* Whether inner and outer ECN stand to each other as no ingress of today leaves them (RFC 6040 §4.2). */
bool ecn_is_unused(uint8_t inner, uint8_t outer);

/* The inner ECN behind a tunnel, -1: the packet has to be dropped (RFC 6040 §4.2). */
int ecn_decapsulated(uint8_t inner, uint8_t outer);

/* Give a packet another ECN; IPv4's checksum follows (RFC 1624). */
void set_ecn(uint8_t *packet, uint8_t ecn);

#endif
