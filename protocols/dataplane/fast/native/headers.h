/* What a tunnel does to headers: DSCP and ECN (RFC 4301 §5.1.2, RFC 6040 §4) as protocols/esp/traffic_class.py, the MSS of
 * SYNs (RFC 9293 §3.7.1) as protocols/esp/mss.py. */
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

/* The longest packet of an IP version that goes in one piece where ESP leaves inner_mtu octets (RFC 791 §3.2, RFC 8200 §5). */
static inline uint32_t limit_of(uint8_t version, uint32_t inner_mtu) {
    uint32_t least = version == 4 ? 68 : 1280;
    return inner_mtu > least ? inner_mtu : least;
}

/* The MSS of packets of at most mtu octets without options of IP or TCP (RFC 6691 §2). */
static inline uint32_t mss_for(uint32_t mtu, uint8_t version) {
    return mtu - (version == 4 ? 40 : 60);
}

/* Whether a packet that flow_read has taken, or the first fragment of one, is a SYN. */
bool is_syn(const uint8_t *packet, const struct flow *flow);

/* Lower the MSS of a SYN, its checksum updated (RFC 1624); whether it said more. */
bool mss_clamp(uint8_t *packet, const struct flow *flow, uint32_t maximum);

#endif
