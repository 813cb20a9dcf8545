#include "offload.h"

#include <string.h>

#include <netinet/in.h>

#define IPV4_LENGTH 20
#define IPV6_LENGTH 40
#define TCP_LENGTH 20
#define UDP_LENGTH 8
#define TCP_CHECKSUM 16
#define UDP_CHECKSUM 6
#define IP_MAXIMUM 65535
#define LONG_OCTETS 128 /* where vectors begin to be worth it */

enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_ACK = 0x10, TCP_CWR = 0x80 };

static uint16_t get16(const uint8_t *at) {
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put16(uint8_t *at, size_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value) {
    put16(at, value >> 16);
    put16(at + 2, value & 0xFFFF);
}

/* ---- checksums: sums are of 16-bit words in memory order, folded at the end (RFC 1071 §2) ---- */

static uint64_t add(uint64_t sum, uint64_t value) {
    sum += value;
    return sum + (sum < value);
}

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

/* Words of 32 bits, so many fit into 64 that no carry is lost: the compiler makes vectors of it. */
VECTORS static uint64_t sum_of_words(const uint8_t *at, size_t words) {
    uint64_t sum = 0;

    for (size_t i = 0; i < words; i++) {
        uint32_t word;

        memcpy(&word, at + i * sizeof word, sizeof word);
        sum += word;
    }
    return sum;
}

static uint64_t sum_of(const uint8_t *at, size_t length, uint64_t sum) {
    uint64_t word;

    if (length >= LONG_OCTETS) {
        size_t words = length / 4;

        sum = add(sum, sum_of_words(at, words));
        at += words * 4;
        length -= words * 4;
    }
    for (; length >= sizeof word; at += sizeof word, length -= sizeof word) {
        memcpy(&word, at, sizeof word);
        sum = add(sum, word);
    }
    if (length > 0) {
        word = 0;
        memcpy(&word, at, length);
        sum = add(sum, word);
    }
    return sum;
}

static uint16_t fold(uint64_t sum) {
    sum = (sum >> 32) + (sum & 0xFFFFFFFF);
    sum = (sum >> 32) + (sum & 0xFFFFFFFF);
    sum = (sum >> 16) + (sum & 0xFFFF);
    sum = (sum >> 16) + (sum & 0xFFFF);
    sum = (sum >> 16) + (sum & 0xFFFF);
    return (uint16_t)sum;
}

static void store(uint8_t *at, uint16_t value) {
    memcpy(at, &value, 2);
}

/* The pseudo-header of RFC 9293 §3.1 and RFC 8200 §8.1. */
static uint64_t pseudo_sum(const uint8_t *ip, uint8_t version, uint8_t protocol, size_t length) {
    uint8_t tail[8] = {0};
    uint64_t sum;

    put32(tail, (uint32_t)length);
    tail[7] = protocol;
    sum = sum_of(tail, sizeof tail, 0);
    return version == 4 ? sum_of(ip + 12, 8, sum) : sum_of(ip + 8, 32, sum);
}

static void set_ipv4_checksum(uint8_t *ip, size_t network) {
    store(ip + 10, 0);
    store(ip + 10, (uint16_t)~fold(sum_of(ip, network, 0)));
}

static void set_length(uint8_t *ip, uint8_t version, size_t length) {
    if (version == 4)
        put16(ip + 2, length);
    else
        put16(ip + 4, length - IPV6_LENGTH);
}

static size_t checksum_at(uint8_t protocol) {
    return protocol == IPPROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
}

static void set_transport_checksum(uint8_t *ip, uint8_t version, uint8_t protocol, size_t network, size_t length) {
    uint8_t *field = ip + network + checksum_at(protocol);
    uint16_t value;

    store(field, 0);
    value = (uint16_t)~fold(sum_of(ip + network, length - network, pseudo_sum(ip, version, protocol, length - network)));
    store(field, value == 0 && protocol == IPPROTO_UDP ? 0xFFFF : value);
}

/* ---- segmentation ---- */

static bool complete_checksum(const struct virtio_net_hdr *header, uint8_t *packet, size_t length) {
    size_t field = (size_t)header->csum_start + header->csum_offset;
    uint16_t value;

    if (field + 2 > length)
        return false;
    value = (uint16_t)~fold(sum_of(packet + header->csum_start, length - header->csum_start, 0));
    store(packet + field, value == 0 && header->csum_offset == UDP_CHECKSUM ? 0xFFFF : value);
    return true;
}

bool segment_begin(struct segmenter *segmenter, const struct virtio_net_hdr *header, uint8_t *packet, size_t length) {
    size_t network = header->csum_start, transport;

    segmenter->packet = packet;
    segmenter->left = length;
    segmenter->whole = header->gso_type == VIRTIO_NET_HDR_GSO_NONE;
    if (segmenter->whole)
        return length > 0 && (!(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || complete_checksum(header, packet, length));

    if (length < IPV4_LENGTH || header->gso_size == 0)
        return false;
    segmenter->version = packet[0] >> 4;
    switch (header->gso_type) {
    case VIRTIO_NET_HDR_GSO_TCPV4:
    case VIRTIO_NET_HDR_GSO_TCPV6:
        if (segmenter->version != (header->gso_type == VIRTIO_NET_HDR_GSO_TCPV4 ? 4 : 6) || network + TCP_LENGTH > length)
            return false;
        segmenter->protocol = IPPROTO_TCP;
        transport = (size_t)(packet[network + 12] >> 4) * 4;
        if (transport < TCP_LENGTH)
            return false;
        break;
    case VIRTIO_NET_HDR_GSO_UDP_L4:
        segmenter->protocol = IPPROTO_UDP;
        transport = UDP_LENGTH;
        break;
    default:
        return false;
    }
    if (segmenter->version == 4 ? network != (size_t)(packet[0] & 15) * 4 || network < IPV4_LENGTH
                                : segmenter->version != 6 || network < IPV6_LENGTH)
        return false;
    if (network + transport > OFFLOAD_HEADERS || network + transport >= length)
        return false;
    segmenter->network = (uint16_t)network;
    segmenter->headers = (uint16_t)(network + transport);
    segmenter->size = header->gso_size;
    segmenter->identification = segmenter->version == 4 ? get16(packet + 4) : 0;
    if (segmenter->protocol == IPPROTO_TCP) {
        segmenter->sequence = get32(packet + network + 4);
        segmenter->flags = packet[network + 13];
    }
    memcpy(segmenter->header, packet, segmenter->headers);
    segmenter->packet = packet;
    segmenter->left = length - segmenter->headers;
    return true;
}

size_t segment_next(struct segmenter *segmenter, uint8_t **packet) {
    size_t octets = segmenter->left, length, network = segmenter->network;
    uint8_t *ip = segmenter->packet, *transport;

    *packet = ip;
    if (segmenter->whole) {
        segmenter->left = 0;
        return octets;
    }
    if (octets == 0)
        return 0;
    if (octets > segmenter->size)
        octets = segmenter->size;
    segmenter->left -= octets;
    length = segmenter->headers + octets;
    memcpy(ip, segmenter->header, segmenter->headers);
    transport = ip + network;
    set_length(ip, segmenter->version, length);
    if (segmenter->version == 4) {
        put16(ip + 4, segmenter->identification++);
        set_ipv4_checksum(ip, network);
    }
    if (segmenter->protocol == IPPROTO_TCP) {
        put32(transport + 4, segmenter->sequence);
        segmenter->sequence += (uint32_t)octets;
        transport[13] = segmenter->left > 0 ? segmenter->flags & (uint8_t)~(TCP_FIN | TCP_PSH) : segmenter->flags;
        segmenter->flags &= (uint8_t)~TCP_CWR;
    } else {
        put16(transport + 4, length - network);
    }
    set_transport_checksum(ip, segmenter->version, segmenter->protocol, network, length);
    segmenter->packet += octets; /* the next headers go in front of the next payload, over what is done with */
    return length;
}

/* ---- coalescing ---- */

struct view {
    uint8_t version, protocol;
    bool fit; /* may be part of a super-packet */
    bool last; /* nothing may follow it there */
    uint16_t network, headers, payload;
};

/* What kind of packet it is; false: none whose flow we know. */
static bool look(const struct coalescer *coalescer, const uint8_t *ip, size_t length, struct view *view) {
    const uint8_t *transport;
    bool plain;

    if (length < IPV4_LENGTH || length > IP_MAXIMUM)
        return false;
    view->version = ip[0] >> 4;
    if (view->version == 4) {
        view->network = IPV4_LENGTH;
        view->protocol = ip[9];
        plain = ip[0] == 0x45 && get16(ip + 2) == length && (get16(ip + 6) & 0x3FFF) == 0 && !(ip[6] & 0x80);
    } else if (view->version == 6 && length >= IPV6_LENGTH) {
        view->network = IPV6_LENGTH;
        view->protocol = ip[6];
        plain = (size_t)get16(ip + 4) + IPV6_LENGTH == length;
    } else {
        return false;
    }
    if (!plain)
        return false;
    transport = ip + view->network;
    if (view->protocol == IPPROTO_TCP && length >= (size_t)view->network + TCP_LENGTH) {
        size_t headers = view->network + (size_t)(transport[12] >> 4) * 4;

        if (headers < (size_t)view->network + TCP_LENGTH || headers > length)
            return false;
        view->headers = (uint16_t)headers;
        view->payload = (uint16_t)(length - headers);
        view->last = transport[13] & TCP_PSH;
        view->fit = view->payload > 0 && (transport[13] & ~TCP_PSH) == TCP_ACK;
        return true;
    }
    if (view->protocol == IPPROTO_UDP && length >= (size_t)view->network + UDP_LENGTH) {
        view->headers = view->network + UDP_LENGTH;
        view->payload = (uint16_t)(length - view->headers);
        view->last = false;
        view->fit = coalescer->udp && view->payload > 0 && get16(transport + 4) == length - view->network &&
                    get16(transport + UDP_CHECKSUM) != 0;
        return true;
    }
    return false;
}

static bool is_of(const struct aggregate *aggregate, const uint8_t *ip, const struct view *view) {
    const uint8_t *first = aggregate->first;

    if (aggregate->version != view->version || aggregate->protocol != view->protocol)
        return false;
    if (memcmp(first + aggregate->network, ip + view->network, 4) != 0)
        return false;
    return view->version == 4 ? memcmp(first + 12, ip + 12, 8) == 0 : memcmp(first + 8, ip + 8, 32) == 0;
}

/* Everything in the headers that a super-packet has only once. */
static bool same_headers(const struct aggregate *aggregate, const uint8_t *ip) {
    const uint8_t *first = aggregate->first, *ours, *theirs;

    if (aggregate->version == 4) {
        bool atomic = first[6] & 0x40; /* DF: the identification says nothing (RFC 6864 §4) */

        if (first[1] != ip[1] || first[6] != ip[6] || first[8] != ip[8])
            return false;
        if (!atomic && get16(ip + 4) != (uint16_t)(aggregate->identification + aggregate->count))
            return false;
    } else if (memcmp(first, ip, 4) != 0 || first[7] != ip[7]) {
        return false;
    }
    if (aggregate->protocol == IPPROTO_UDP)
        return true;
    ours = first + aggregate->network;
    theirs = ip + aggregate->network;
    return memcmp(ours + 8, theirs + 8, 5) == 0 && memcmp(ours + 14, theirs + 14, 2) == 0 &&
           memcmp(ours + 18, theirs + 18, (size_t)(aggregate->headers - aggregate->network) - 18) == 0;
}

static bool sums_are_right(const uint8_t *ip, uint8_t version, uint8_t protocol, size_t network, size_t length) {
    if (version == 4 && fold(sum_of(ip, network, 0)) != 0xFFFF)
        return false;
    return fold(sum_of(ip + network, length - network, pseudo_sum(ip, version, protocol, length - network))) == 0xFFFF;
}

static void write_aggregate(struct coalescer *coalescer, struct aggregate *aggregate) {
    uint8_t *ip = aggregate->first, *transport = ip + aggregate->network;
    size_t carried = aggregate->length - aggregate->network;

    memset(&aggregate->header, 0, sizeof aggregate->header);
    if (aggregate->count > 1) {
        set_length(ip, aggregate->version, aggregate->length);
        if (aggregate->version == 4)
            set_ipv4_checksum(ip, aggregate->network);
        aggregate->header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        aggregate->header.hdr_len = aggregate->headers;
        aggregate->header.gso_size = aggregate->size;
        aggregate->header.csum_start = aggregate->network;
        aggregate->header.csum_offset = (uint16_t)checksum_at(aggregate->protocol);
        if (aggregate->protocol == IPPROTO_TCP) {
            aggregate->header.gso_type = aggregate->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
            if (aggregate->pushed)
                transport[13] |= TCP_PSH;
        } else {
            aggregate->header.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
            put16(transport + 4, carried);
        }
        store(transport + aggregate->header.csum_offset,
              fold(pseudo_sum(ip, aggregate->version, aggregate->protocol, carried)));
    }
    coalescer->write(coalescer->context, aggregate->parts, (int)aggregate->count + 1, aggregate->count);
}

static void write_alone(struct coalescer *coalescer, uint8_t *packet, size_t length) {
    static struct virtio_net_hdr nothing;
    struct iovec parts[2] = {{&nothing, sizeof nothing}, {packet, length}};

    coalescer->write(coalescer->context, parts, 2, 1);
}

static void start_aggregate(struct aggregate *aggregate, uint8_t *ip, size_t length, const struct view *view) {
    aggregate->first = ip;
    aggregate->version = view->version;
    aggregate->protocol = view->protocol;
    aggregate->network = view->network;
    aggregate->headers = view->headers;
    aggregate->size = view->payload;
    aggregate->identification = view->version == 4 ? get16(ip + 4) : 0;
    aggregate->next_sequence = view->protocol == IPPROTO_TCP ? get32(ip + view->network + 4) + view->payload : 0;
    aggregate->length = length;
    aggregate->count = 1;
    aggregate->closed = view->last;
    aggregate->pushed = view->last;
    aggregate->verified = false;
    aggregate->parts[0] = (struct iovec){&aggregate->header, sizeof aggregate->header};
    aggregate->parts[1] = (struct iovec){ip, length};
}

static bool append(struct aggregate *aggregate, uint8_t *ip, size_t length, const struct view *view) {
    if (aggregate->closed || aggregate->count == COALESCE_SEGMENTS || aggregate->headers != view->headers ||
        view->payload > aggregate->size || aggregate->length + view->payload > IP_MAXIMUM)
        return false;
    if (view->protocol == IPPROTO_TCP && get32(ip + view->network + 4) != aggregate->next_sequence)
        return false;
    if (!same_headers(aggregate, ip))
        return false;
    if (!aggregate->verified) {
        if (!sums_are_right(aggregate->first, view->version, view->protocol, view->network, aggregate->length))
            return false;
        aggregate->verified = true;
    }
    if (!sums_are_right(ip, view->version, view->protocol, view->network, length))
        return false;
    aggregate->count++;
    aggregate->parts[aggregate->count] = (struct iovec){ip + view->headers, view->payload};
    aggregate->length += view->payload;
    aggregate->next_sequence += view->payload;
    aggregate->closed = view->last || view->payload < aggregate->size;
    aggregate->pushed = view->last;
    return true;
}

void coalesce_flush(struct coalescer *coalescer) {
    for (unsigned i = 0; i < coalescer->used; i++)
        if (coalescer->flows[i].count > 0)
            write_aggregate(coalescer, &coalescer->flows[i]);
    coalescer->used = 0;
    coalescer->oldest = 0;
}

void coalesce_packet(struct coalescer *coalescer, uint8_t *packet, size_t length) {
    struct aggregate *found = NULL;
    struct view view;

    if (!look(coalescer, packet, length, &view)) {
        coalesce_flush(coalescer);
        write_alone(coalescer, packet, length);
        return;
    }
    for (unsigned i = 0; i < coalescer->used; i++)
        if (coalescer->flows[i].count > 0 && is_of(&coalescer->flows[i], packet, &view)) {
            found = &coalescer->flows[i];
            break;
        }
    if (found != NULL) {
        if (view.fit && append(found, packet, length, &view))
            return;
        write_aggregate(coalescer, found);
        found->count = 0;
    }
    if (!view.fit) {
        write_alone(coalescer, packet, length);
        return;
    }
    if (found == NULL) {
        if (coalescer->used < COALESCE_FLOWS) {
            found = &coalescer->flows[coalescer->used++];
        } else {
            found = &coalescer->flows[coalescer->oldest];
            coalescer->oldest = (coalescer->oldest + 1) % COALESCE_FLOWS;
            if (found->count > 0)
                write_aggregate(coalescer, found);
        }
    }
    start_aggregate(found, packet, length, &view);
}
