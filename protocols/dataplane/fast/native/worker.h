/* What the parts of the loop share: sources, workers and their counters. */
#ifndef FAST_WORKER_H
#define FAST_WORKER_H

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <netinet/in.h>
#include <sys/socket.h>

#include "loop.h"
#include "offload.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT /* a C library's headers may be older than the kernel */
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define BATCH 64 /* packets of a turn, and messages of a call */
#define PACKET_MAXIMUM 65535
#define ERRORS_MAXIMUM 64 /* of reading, in a row, after which a source is given up */
#define INNER_SLOT (64 * 1024 + 64) /* a virtio_net_hdr and a packet; not all slots in one set of the cache */
#define SEALED_OCTETS (256 * 1024) /* of a turn; stays in the second-level cache */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

union send_control {
    char octets[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t))];
    struct cmsghdr aligned;
};

union receive_control {
    char octets[CMSG_SPACE(sizeof(int)) * 3];
    struct cmsghdr aligned;
};

enum state { FREE, LIVE, FAILED, TOLD };

struct source {
    enum state state;
    enum loop_kind kind;
    int descriptor;
    unsigned worker;
    unsigned device; /* of a TUN queue */
    uint32_t generation;
    bool urgent;
    bool plain;    /* the kernel does not segment for it */
    bool udp;      /* the TUN device takes coalesced UDP */
    unsigned errors;
    int error;
    fast_endpoint local;
};

/* ESP packets one behind the other to one place: all of the same length, only the last may be shorter. */
struct train {
    struct source *source;
    uint8_t *octets;
    size_t length, size;
    unsigned packets;
    bool closed;
    fast_where where;
};

/* A worker's queue of a TUN device, and what is on its way there. */
struct outlet {
    struct worker *worker;
    struct source *queue; /* NULL: there is none at present */
    struct loop_device_totals totals;
    struct coalescer coalescer;
};

struct worker {
    fast_loop *loop;
    fast_worker *core;
    unsigned number;
    int epoll;
    pthread_t thread;
    bool running;
    struct outlet *outlets[FAST_DEVICES]; /* of the devices that there have been */
    struct loop_totals totals;

    /* from the TUN device to the network */
    uint8_t *inner, *sealed; /* FAST_EXPECTED slots; SEALED_OCTETS */
    size_t used;
    unsigned trains;
    unsigned long_passed; /* in this turn */
    bool answered;        /* of the present super-packet one that may not be fragmented has been passed on */
    struct train train[BATCH];
    struct mmsghdr sending[BATCH];
    struct iovec send_parts[BATCH];
    union address send_addresses[BATCH];
    union send_control send_controls[BATCH];
    struct segmenter segmenter;

    /* from the network to the TUN device */
    uint8_t *arrived;
    struct mmsghdr receiving[BATCH];
    struct iovec receive_parts[BATCH];
    union address receive_addresses[BATCH];
    union receive_control receive_controls[BATCH];
    uint64_t waiting;        /* a bit for each outlet whose coalescer may have something */
    unsigned opened, passed; /* since the last fast_begin; to the channel in this turn */
};

struct fast_loop {
    fast_core *core;
    int channel, long_channel, events, wake;
    unsigned count;
    bool stopping;
    unsigned high;           /* sources from here on are free */
    pthread_mutex_t control; /* one start or stop at a time */
    pthread_rwlock_t lock;   /* sources: workers read in a turn, control calls write */
    struct source sources[LOOP_SOURCES];
    struct worker *workers[LOOP_WORKERS];
};

/* Only the worker writes its counters, anybody reads them. */
static inline void count(uint64_t *counter, uint64_t more) {
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + more, __ATOMIC_RELAXED);
}

static inline void tally(struct worker *worker, enum loop_counter counter, uint64_t more) {
    count(&worker->totals.counters[counter], more);
}

static inline bool is_live(const struct source *source) {
    return __atomic_load_n(&source->state, __ATOMIC_ACQUIRE) == LIVE;
}

static inline bool same_endpoint(const fast_endpoint *one, const fast_endpoint *other) {
    return one->port == other->port && one->version == other->version &&
           memcmp(one->address, other->address, one->version == 4 ? 4 : 16) == 0;
}

/* Whether an errno says: not now. */
static inline bool has_no_room(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS || error == ENOMEM;
}

/* Whether an errno says: never again. */
static inline bool is_gone(int error) {
    return error == EBADF || error == EBADFD || error == ENOTSOCK || error == EPIPE || error == ESHUTDOWN;
}

/* Under the read lock: a source has ended; of several workers that see it the first tells. */
void source_failed(fast_loop *, struct source *, int error);

/* One turn of a source, under the read lock. */
void read_queue(struct worker *, struct source *);
void read_socket(struct worker *, struct source *);

/* Of struct coalescer: inner packets to the outlet's queue. */
void write_inner(void *outlet, const struct iovec *parts, int count_of_parts, unsigned packets);

#endif
