#include "flow.h"

enum { ICMP = 1, TCP = 6, UDP = 17, ICMPV6 = 58, SCTP = 132, UDP_LITE = 136 };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, AUTHENTICATION = 51, DESTINATION_OPTIONS = 60 };
enum { IPV4_HEADER_LENGTH = 20, IPV6_HEADER_LENGTH = 40, PORT_MAXIMUM = 65535 };

static void read_ports(struct flow *flow, const uint8_t *packet, size_t offset) {
    flow->transport = offset;
    switch (flow->protocol) {
    case TCP:
    case UDP:
    case SCTP:
    case UDP_LITE:
        if (offset + 4 > flow->length)
            return;
        flow->source_port = get16(packet + offset);
        flow->destination_port = get16(packet + offset + 2);
        break;
    case ICMP:
    case ICMPV6: /* RFC 7296 §3.13.1: type and code */
        if (offset + 2 > flow->length)
            return;
        flow->source_port = flow->destination_port = get16(packet + offset);
        break;
    default:
        return;
    }
    flow->ports = true;
}

static bool read_v4(struct flow *flow, const uint8_t *packet, size_t length) {
    if (length < IPV4_HEADER_LENGTH)
        return false;
    size_t header = (packet[0] & 0x0F) * 4u;
    flow->length = get16(packet + 2);
    if (header < IPV4_HEADER_LENGTH || header > flow->length || flow->length > length)
        return false;
    flow->protocol = packet[9];
    flow->source = get_address(packet + 12, 4);
    flow->destination = get_address(packet + 16, 4);
    flow->later = get16(packet + 6) & 0x1FFF;
    flow->fragment = get16(packet + 6) & 0x3FFF;
    if (!flow->later)
        read_ports(flow, packet, header);
    return true;
}

static bool read_v6(struct flow *flow, const uint8_t *packet, size_t length) {
    if (length < IPV6_HEADER_LENGTH)
        return false;
    flow->length = IPV6_HEADER_LENGTH + (size_t)get16(packet + 4);
    if (flow->length > length)
        return false;
    flow->source = get_address(packet + 8, 6);
    flow->destination = get_address(packet + 24, 6);
    flow->protocol = packet[6];
    size_t offset = IPV6_HEADER_LENGTH;
    for (;;) { /* RFC 8200 §4 */
        uint8_t kind = flow->protocol;
        if (kind != HOP_BY_HOP && kind != ROUTING && kind != FRAGMENT && kind != AUTHENTICATION &&
            kind != DESTINATION_OPTIONS)
            break;
        if (offset + 8 > flow->length)
            return false;
        size_t extension = 8;
        if (kind == AUTHENTICATION) /* RFC 4302 §2.2: in 32-bit words, minus 2 */
            extension = packet[offset + 1] * 4u + 8;
        else if (kind != FRAGMENT)
            extension = packet[offset + 1] * 8u + 8;
        if (offset + extension > flow->length)
            return false;
        flow->protocol = packet[offset];
        if (kind == FRAGMENT)
            flow->fragment = get16(packet + offset + 2) & 0xFFF9;
        flow->later = kind == FRAGMENT && get16(packet + offset + 2) >> 3;
        if (flow->later)
            return true;
        offset += extension;
    }
    read_ports(flow, packet, offset);
    return true;
}

bool flow_read(struct flow *flow, const uint8_t *packet, size_t length) {
    if (!length)
        return false;
    flow->later = flow->fragment = flow->ports = false;
    flow->source_port = flow->destination_port = 0;
    flow->version = packet[0] >> 4;
    if (flow->version == 4)
        return read_v4(flow, packet, length);
    return flow->version == 6 && read_v6(flow, packet, length);
}

static bool matches_but_for_port(const struct selector *row, const struct flow *flow, flow_address address) {
    return row->version == flow->version && address >= row->start && address <= row->end &&
           (!row->protocol || row->protocol == flow->protocol);
}

bool selectors_match(const struct selector *selectors, size_t count, const struct flow *flow, flow_address address,
                     uint16_t port) {
    for (const struct selector *row = selectors; row < selectors + count; row++) {
        if (!matches_but_for_port(row, flow, address))
            continue;
        if (flow->ports ? row->start_port <= port && port <= row->end_port
                        : row->start_port == 0 && row->end_port == PORT_MAXIMUM)
            return true;
    }
    return false;
}

bool selectors_match_but_for_port(const struct selector *selectors, size_t count, const struct flow *flow,
                                  flow_address address) {
    for (const struct selector *row = selectors; row < selectors + count; row++)
        if (matches_but_for_port(row, flow, address))
            return true;
    return false;
}
