/* The threads of the fast data plane: TUN queues on one side, UDP sockets of ESP on the other (RFC 3948).
 *
 * A worker is a thread with the core's fast_worker, at most one queue of each TUN device and any number of sockets to
 * read. It sends by whichever socket has the local end point of the SA that selects a packet, and writes to its queue of
 * the SA's device. What is no ESP goes to a channel, whole, behind a struct loop_frame. Inner packets that are too long
 * for their path go to a channel of their own, as they are. Nothing grows: what finds no room is dropped and counted.
 */
#ifndef FAST_LOOP_H
#define FAST_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core.h"

#define LOOP_WORKERS 64
#define LOOP_SOURCES 256

enum loop_counter {
    LOOP_TUN_PACKETS,         /* inner packets from the TUN device, after segmentation */
    LOOP_TUN_SUPER_PACKETS,   /* reads that had more than one in them */
    LOOP_TUN_MALFORMED,       /* a packet and its virtio_net_hdr that do not fit one another */
    LOOP_LONG,                /* inner packets too long for their path, passed to their channel */
    LOOP_LONG_DROPPED,        /* the same, without room in it or in its share of a turn */
    LOOP_SEALED,              /* inner packets sealed */
    LOOP_SENT,                /* ESP packets the kernel took */
    LOOP_SENT_TRAINS,         /* and in how many messages */
    LOOP_SOCKET_FULL,         /* ESP packets a socket had no room for */
    LOOP_SEND_ERRORS,         /* ESP packets the kernel refused: no route, too long */
    LOOP_NO_SOCKET,           /* ESP packets of a path without a socket */
    LOOP_RECEIVED,            /* datagrams, after UDP GRO was undone */
    LOOP_RECEIVED_TRAINS,     /* and in how many messages */
    LOOP_RECEIVE_ERRORS,      /* errors that a socket reported: ICMP, device down */
    LOOP_UNREACHABLE,         /* those of ICMP about what is no ESP, passed to the channel */
    LOOP_KEEPALIVES,          /* NAT keepalives (RFC 3948 section 4) */
    LOOP_SHORT,               /* too short for ESP */
    LOOP_OTHER,               /* IKE and whatever else is no ESP, passed to the channel */
    LOOP_OTHER_DROPPED,       /* the same, without room in the channel or in its share of a turn */
    LOOP_OPENED,              /* ESP packets that had an inner packet in them */
    LOOP_WRITTEN,             /* inner packets the TUN device took */
    LOOP_WRITTEN_SUPER_PACKETS, /* writes that had more than one in them */
    LOOP_TUN_FULL,            /* inner packets the TUN device had no room for */
    LOOP_TUN_REFUSED,         /* inner packets the kernel did not take: device down, not IP */
    LOOP_NO_TUN,              /* inner packets without a TUN queue to write to */
    LOOP_TURNS,               /* wake-ups that had work */
    LOOP_COUNTERS
};

struct loop_totals {
    uint64_t counters[LOOP_COUNTERS];
    uint64_t sealing[FAST_REASONS]; /* inner packets not sealed, by reason; FAST_TOO_BIG: others of the same super-packet
                                       have been passed on */
    uint64_t opening[FAST_REASONS]; /* ESP packets that had nothing for the TUN device in them, by reason */
};

/* Of one TUN device: inner packets read, written, and not taken by the kernel. */
struct loop_device_totals {
    uint64_t read, written, refused;
};

/* In front of a datagram in the channel. Ports in host order. error: it is one that was sent and, ICMP says, did not
 * arrive, as far as that quotes it. */
struct loop_frame {
    uint8_t version, error;
    uint16_t local_port, remote_port;
    uint8_t local[16], remote[16];
};

/* A TUN queue, ESP in UDP (RFC 3948), ESP on IP. */
enum loop_kind { LOOP_QUEUE, LOOP_UDP, LOOP_RAW };

typedef struct fast_loop fast_loop;

/* channels: non-blocking SOCK_SEQPACKET or SOCK_DGRAM, the loop's from then on. NULL: errno says why. */
fast_loop *fast_loop_new(fast_core *, unsigned workers, int channel, int long_channel);
void fast_loop_free(fast_loop *);

/* Begin or end the threads. 0 or -errno; starting what runs and stopping what stands does nothing. */
int fast_loop_start(fast_loop *);
void fast_loop_stop(fast_loop *);

/* A source for a worker to read; the loop has a descriptor of its own of it. Its number, or -errno: EBUSY when the
 * worker has a queue of the device already, ENOSPC when there are LOOP_SOURCES. urgent: read before the others of the
 * same turn. local: of LOOP_RAW, where its packets are taken to have come to; it sends for any port. */
int fast_loop_add_socket(fast_loop *, int descriptor, unsigned worker, enum loop_kind, const fast_endpoint *local,
                         bool urgent);
int fast_loop_add_queue(fast_loop *, int descriptor, unsigned worker, unsigned device, bool udp_offload);

/* When this returns no worker touches the source any more. 0 or -ENOENT. */
int fast_loop_remove(fast_loop *, int source);

/* Sums over the workers, without stopping them. */
void fast_loop_read(fast_loop *, struct loop_totals *);
void fast_loop_read_device(fast_loop *, unsigned device, struct loop_device_totals *);

/* A source that ended by itself and has not been told of yet; it stays until it is removed. The eventfd becomes
 * readable with each. */
bool fast_loop_failure(fast_loop *, int *source, int *error);
int fast_loop_eventfd(const fast_loop *);

#endif
