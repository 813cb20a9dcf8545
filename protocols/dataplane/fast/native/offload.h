/* Segmentation and coalescing of TCP and UDP behind a virtio_net_hdr (VIRTIO 1.2 §5.1.6), with their checksums
 * (RFC 1071, RFC 9293 §3.1, RFC 768): what the kernel leaves to a TUN device that offers offload, and what it takes.
 * No I/O, no allocation.
 */
#ifndef FAST_OFFLOAD_H
#define FAST_OFFLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <linux/virtio_net.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* Linux 6.2 */
#endif

#define OFFLOAD_HEADERS 256 /* the longest IP and TCP headers of a super-packet */

/* A packet of the TUN device on its way to single packets. */
struct segmenter {
    uint8_t *packet; /* what is left of the super-packet, or all of a packet that is none */
    size_t left;
    bool whole;
    uint8_t version, protocol, flags;
    uint16_t network, headers, size, identification;
    uint32_t sequence;
    uint8_t header[OFFLOAD_HEADERS];
};

/* False when header and packet do not fit one another. A packet that is no super-packet gets the checksum it lacks. */
bool segment_begin(struct segmenter *, const struct virtio_net_hdr *, uint8_t *packet, size_t length);

/* The next packet, built inside the super-packet's octets; the one before is overwritten. 0 at the end. */
size_t segment_next(struct segmenter *, uint8_t **packet);

#define COALESCE_SEGMENTS 64
#define COALESCE_FLOWS 16

/* Packets of one flow that will be one super-packet. parts[0] is kept for the virtio_net_hdr. */
struct aggregate {
    uint8_t *first;
    uint16_t network, headers, size, identification;
    uint8_t version, protocol;
    bool closed, verified, pushed;
    uint32_t next_sequence;
    size_t length;
    unsigned count;
    struct virtio_net_hdr header;
    struct iovec parts[COALESCE_SEGMENTS + 1];
};

/* Takes parts[0..count) (the first is the virtio_net_hdr), which are packets inner packets. */
typedef void (*coalesce_write)(void *context, const struct iovec *parts, int count, unsigned packets);

struct coalescer {
    coalesce_write write;
    void *context;
    bool udp; /* the kernel takes VIRTIO_NET_HDR_GSO_UDP_L4 */
    unsigned used, oldest;
    struct aggregate flows[COALESCE_FLOWS];
};

/* Take a packet that stays where it is until coalesce_flush. Packets of one flow are written in their order. */
void coalesce_packet(struct coalescer *, uint8_t *packet, size_t length);

/* Write all that waits. */
void coalesce_flush(struct coalescer *);

#endif
