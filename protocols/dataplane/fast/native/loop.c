#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "offload.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif

#define BATCH 64                   /* packets of a turn, and messages of a call */
#define PACKET_MAXIMUM 65535
#define TRAIN_PACKETS 64           /* UDP_MAX_SEGMENTS of kernels before 6.9 */
#define TRAIN_OCTETS 65000         /* below what an IP packet can carry */
#define SEALED_OCTETS (256 * 1024) /* of a turn; stays in the second-level cache */
#define SUPER_PACKET_ROOM (96 * 1024) /* sealed, unless its segments are tiny */
#define ESP_MINIMUM 9              /* SPI, sequence number and something */
#define MARKER_LENGTH 4            /* the non-ESP marker (RFC 3948 section 2.2) */
#define KEEPALIVE 0xFF
#define ERRORS_MAXIMUM 64          /* in a row, after which a socket is given up */
#define WAKE UINT64_MAX
#define IPV4_HEADER_MINIMUM 20

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

struct worker {
    fast_loop *loop;
    fast_worker *core;
    unsigned number;
    int epoll;
    pthread_t thread;
    bool running;
    struct source *queue;
    struct loop_totals totals;

    /* from the TUN device to the network */
    uint8_t *inner, *sealed;
    size_t used;
    unsigned trains;
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
    struct coalescer coalescer;
    unsigned opened, passed; /* since the last fast_begin; to the channel in this turn */
};

struct fast_loop {
    fast_core *core;
    int channel, events, wake;
    unsigned count;
    bool stopping;
    unsigned high;           /* sources from here on are free */
    pthread_mutex_t control; /* one start or stop at a time */
    pthread_rwlock_t lock;   /* sources: workers read in a turn, control calls write */
    struct source sources[LOOP_SOURCES];
    struct worker *workers[LOOP_WORKERS];
};

/* Only the worker writes its counters, anybody reads them. */
static void count(uint64_t *counter, uint64_t more) {
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + more, __ATOMIC_RELAXED);
}

static void tally(struct worker *worker, enum loop_counter counter, uint64_t more) {
    count(&worker->totals.counters[counter], more);
}

/* ---- sources ---- */

/* Under the read lock; several workers may send by one socket, the first to see it end tells. */
static void fail(fast_loop *loop, struct source *source, int error) {
    enum state live = LIVE;

    if (!__atomic_compare_exchange_n(&source->state, &live, FAILED, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return;
    __atomic_store_n(&source->error, error, __ATOMIC_RELEASE);
    epoll_ctl(loop->workers[source->worker]->epoll, EPOLL_CTL_DEL, source->descriptor, NULL);
    eventfd_write(loop->events, 1);
}

static bool is_live(const struct source *source) {
    return __atomic_load_n(&source->state, __ATOMIC_ACQUIRE) == LIVE;
}

static bool same_endpoint(const fast_endpoint *one, const fast_endpoint *other) {
    return one->port == other->port && one->version == other->version &&
           memcmp(one->address, other->address, one->version == 4 ? 4 : 16) == 0;
}

/* The socket of a path; the worker's own before others'. */
static struct source *socket_of(struct worker *worker, const fast_where *where) {
    enum loop_kind kind = where->encapsulation ? LOOP_UDP : LOOP_RAW;
    struct source *found = NULL;

    for (unsigned i = 0; i < worker->loop->high; i++) {
        struct source *source = &worker->loop->sources[i];
        fast_endpoint local = where->path.local;

        if (source->kind != kind || !is_live(source))
            continue;
        if (kind == LOOP_RAW)
            local.port = 0;
        if (!same_endpoint(&source->local, &local))
            continue;
        if (source->worker == worker->number && !source->urgent)
            return source;
        if (found == NULL || found->urgent)
            found = source;
    }
    return found;
}

static socklen_t put_address(union address *address, const fast_endpoint *endpoint, uint16_t port) {
    memset(address, 0, sizeof *address);
    if (endpoint->version == 4) {
        address->v4.sin_family = AF_INET;
        address->v4.sin_port = htons(port);
        memcpy(&address->v4.sin_addr, endpoint->address, 4);
        return sizeof address->v4;
    }
    address->v6.sin6_family = AF_INET6;
    address->v6.sin6_port = htons(port);
    memcpy(&address->v6.sin6_addr, endpoint->address, 16);
    return sizeof address->v6;
}

static void take_address(fast_endpoint *endpoint, const union address *address) {
    memset(endpoint, 0, sizeof *endpoint);
    if (address->any.sa_family == AF_INET) {
        endpoint->version = 4;
        endpoint->port = ntohs(address->v4.sin_port);
        memcpy(endpoint->address, &address->v4.sin_addr, 4);
    } else {
        endpoint->version = 6;
        endpoint->port = ntohs(address->v6.sin6_port);
        memcpy(endpoint->address, &address->v6.sin6_addr, 16);
    }
}

/* ---- from the TUN device to the network ---- */

static void put_control(struct msghdr *message, int level, int type, const void *value, size_t length) {
    struct cmsghdr *control = (struct cmsghdr *)((char *)message->msg_control + message->msg_controllen);

    control->cmsg_level = level;
    control->cmsg_type = type;
    control->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(control), value, length);
    message->msg_controllen += CMSG_SPACE(length);
}

/* A message of octets of a train; size: what the kernel cuts it into, 0 when it does not. */
static void put_message(struct worker *worker, unsigned at, const struct train *train, uint8_t *octets, size_t length,
                        size_t size) {
    struct msghdr *message = &worker->sending[at].msg_hdr;

    worker->send_parts[at] = (struct iovec){octets, length};
    memset(message, 0, sizeof *message);
    message->msg_name = &worker->send_addresses[at];
    message->msg_namelen = put_address(&worker->send_addresses[at], &train->where.path.remote,
                                       train->source->kind == LOOP_UDP ? train->where.path.remote.port : 0);
    message->msg_iov = &worker->send_parts[at];
    message->msg_iovlen = 1;
    message->msg_control = worker->send_controls[at].octets;
    if (train->where.traffic_class != 0) {
        int value = train->where.traffic_class;

        if (train->where.path.remote.version == 4)
            put_control(message, IPPROTO_IP, IP_TOS, &value, sizeof value);
        else
            put_control(message, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof value);
    }
    if (size != 0) {
        uint16_t value = (uint16_t)size;

        put_control(message, SOL_UDP, UDP_SEGMENT, &value, sizeof value);
    }
    if (message->msg_controllen == 0)
        message->msg_control = NULL;
}

static bool has_no_room(int error) {
    return error == EAGAIN || error == EWOULDBLOCK || error == ENOBUFS || error == ENOMEM;
}

static bool is_gone(int error) {
    return error == EBADF || error == EBADFD || error == ENOTSOCK || error == EPIPE || error == ESHUTDOWN;
}

static void count_unsent(struct worker *worker, struct source *source, int error, unsigned packets) {
    tally(worker, has_no_room(error) ? LOOP_SOCKET_FULL : LOOP_SEND_ERRORS, packets);
    if (is_gone(error))
        fail(worker->loop, source, error);
}

/* Packets that the kernel did not want to cut itself. */
static void send_singly(struct worker *worker, const struct train *train) {
    for (size_t at = 0; at < train->length; at += train->size) {
        size_t length = train->length - at < train->size ? train->length - at : train->size;

        put_message(worker, 0, train, train->octets + at, length, 0);
        if (sendmsg(train->source->descriptor, &worker->sending[0].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            tally(worker, LOOP_SENT, 1);
            tally(worker, LOOP_SENT_TRAINS, 1);
        } else {
            count_unsent(worker, train->source, errno, 1);
        }
    }
}

/* Trains [first, last) all go by one socket. */
static void send_run(struct worker *worker, unsigned first, unsigned last) {
    struct source *source = worker->train[first].source;
    unsigned at = first;

    while (at < last) {
        int sent;

        for (unsigned i = at; i < last; i++) {
            struct train *train = &worker->train[i];

            put_message(worker, i, train, train->octets, train->length, train->packets > 1 ? train->size : 0);
        }
        sent = sendmmsg(source->descriptor, &worker->sending[at], last - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            for (int i = 0; i < sent; i++)
                tally(worker, LOOP_SENT, worker->train[at + (unsigned)i].packets);
            tally(worker, LOOP_SENT_TRAINS, (uint64_t)sent);
            at += (unsigned)sent;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (worker->train[at].packets > 1 && (errno == EIO || errno == EINVAL || errno == EMSGSIZE)) {
            /* EIO: the device computes no checksums; EINVAL, EMSGSIZE: a packet is longer than the path's MTU. */
            if (errno == EIO)
                __atomic_store_n(&source->plain, true, __ATOMIC_RELAXED);
            send_singly(worker, &worker->train[at++]);
            continue;
        }
        if (has_no_room(errno)) {
            for (; at < last; at++)
                count_unsent(worker, source, errno, worker->train[at].packets);
            return;
        }
        count_unsent(worker, source, errno, worker->train[at].packets);
        at++;
    }
}

static void send_trains(struct worker *worker) {
    unsigned first = 0;

    for (unsigned i = 1; i <= worker->trains; i++)
        if (i == worker->trains || worker->train[i].source != worker->train[first].source) {
            send_run(worker, first, i);
            first = i;
        }
    worker->trains = 0;
    worker->used = 0;
}

static bool same_where(const fast_where *one, const fast_where *other) {
    return one->encapsulation == other->encapsulation && one->traffic_class == other->traffic_class &&
           same_endpoint(&one->path.remote, &other->path.remote) && same_endpoint(&one->path.local, &other->path.local);
}

/* Put the packet at the end of the sealed octets behind the last one, or begin a train with it. */
static void join_train(struct worker *worker, size_t length, const fast_where *where) {
    struct train *train = worker->trains > 0 ? &worker->train[worker->trains - 1] : NULL;
    struct source *source;
    uint8_t *octets = worker->sealed + worker->used;

    if (train != NULL && !train->closed && length <= train->size && train->packets < TRAIN_PACKETS &&
        train->length + length <= TRAIN_OCTETS && same_where(&train->where, where)) {
        train->closed = length < train->size;
        train->length += length;
        train->packets++;
        worker->used += length;
        return;
    }
    if (train != NULL && train->where.encapsulation == where->encapsulation &&
        same_endpoint(&train->where.path.local, &where->path.local))
        source = train->source;
    else
        source = socket_of(worker, where);
    if (source == NULL) {
        tally(worker, LOOP_NO_SOCKET, 1);
        return;
    }
    worker->train[worker->trains++] = (struct train){
        .source = source,
        .octets = octets,
        .length = length,
        .size = length,
        .packets = 1,
        .closed = source->kind != LOOP_UDP || __atomic_load_n(&source->plain, __ATOMIC_RELAXED),
        .where = *where,
    };
    worker->used += length;
}

static void seal(struct worker *worker, const uint8_t *packet, size_t length) {
    fast_where where;
    int octets;

    tally(worker, LOOP_TUN_PACKETS, 1);
    if (worker->trains == BATCH || SEALED_OCTETS - worker->used < length + FAST_OVERHEAD)
        send_trains(worker);
    octets = fast_seal(worker->core, packet, length, worker->sealed + worker->used, SEALED_OCTETS - worker->used, &where);
    if (octets <= 0) {
        count(&worker->totals.sealing[-octets], 1);
        return;
    }
    tally(worker, LOOP_SEALED, 1);
    join_train(worker, (size_t)octets, &where);
}

static void read_queue(struct worker *worker, struct source *source) {
    struct virtio_net_hdr header;
    struct iovec parts[2] = {{&header, sizeof header}, {worker->inner, PACKET_MAXIMUM}};

    fast_begin(worker->core);
    for (unsigned i = 0; i < BATCH && SEALED_OCTETS - worker->used >= SUPER_PACKET_ROOM; i++) {
        ssize_t octets = readv(source->descriptor, parts, 2);
        uint64_t before = worker->totals.counters[LOOP_TUN_PACKETS];
        uint8_t *packet;
        size_t length;

        if (octets < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                fail(worker->loop, source, errno);
            break;
        }
        if (octets <= (ssize_t)sizeof header ||
            !segment_begin(&worker->segmenter, &header, worker->inner, (size_t)octets - sizeof header)) {
            tally(worker, LOOP_TUN_MALFORMED, 1);
            continue;
        }
        while ((length = segment_next(&worker->segmenter, &packet)) > 0)
            seal(worker, packet, length);
        if (worker->totals.counters[LOOP_TUN_PACKETS] - before > 1)
            tally(worker, LOOP_TUN_SUPER_PACKETS, 1);
    }
    fast_end(worker->core);
    send_trains(worker);
}

/* ---- from the network to the TUN device ---- */

static void write_inner(void *context, const struct iovec *parts, int count_of_parts, unsigned packets) {
    struct worker *worker = context;
    ssize_t octets;

    if (worker->queue == NULL || !is_live(worker->queue)) {
        tally(worker, LOOP_NO_TUN, packets);
        return;
    }
    do
        octets = writev(worker->queue->descriptor, parts, count_of_parts);
    while (octets < 0 && errno == EINTR);
    if (octets >= 0) {
        tally(worker, LOOP_WRITTEN, packets);
        if (packets > 1)
            tally(worker, LOOP_WRITTEN_SUPER_PACKETS, 1);
        return;
    }
    tally(worker, has_no_room(errno) ? LOOP_TUN_FULL : LOOP_TUN_REFUSED, packets);
    if (is_gone(errno))
        fail(worker->loop, worker->queue, errno);
}

static void pass_on(struct worker *worker, const fast_path *path, uint8_t *octets, size_t length) {
    struct loop_frame frame = {
        .version = path->local.version, .local_port = path->local.port, .remote_port = path->remote.port};
    struct iovec parts[2] = {{&frame, sizeof frame}, {octets, length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

    memcpy(frame.local, path->local.address, sizeof frame.local);
    memcpy(frame.remote, path->remote.address, sizeof frame.remote);
    if (worker->passed < BATCH && sendmsg(worker->loop->channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
        worker->passed++;
        tally(worker, LOOP_OTHER, 1);
    } else {
        tally(worker, LOOP_OTHER_DROPPED, 1);
    }
}

static void open_esp(struct worker *worker, const fast_path *path, uint8_t traffic_class, uint8_t *esp, size_t length) {
    uint8_t *inner;
    int octets;

    if (worker->opened++ == BATCH) { /* let control calls in */
        fast_end(worker->core);
        fast_begin(worker->core);
        worker->opened = 1;
    }
    octets = fast_open(worker->core, esp, length, path, traffic_class, &inner);
    if (octets <= 0) {
        count(&worker->totals.opening[-octets], 1);
        return;
    }
    tally(worker, LOOP_OPENED, 1);
    coalesce_packet(&worker->coalescer, inner, (size_t)octets);
}

/* RFC 3948 section 2: what a datagram on the port is. */
static void take_datagram(struct worker *worker, const fast_path *path, uint8_t traffic_class, uint8_t *octets,
                          size_t length) {
    tally(worker, LOOP_RECEIVED, 1);
    if (length == 1 && octets[0] == KEEPALIVE)
        tally(worker, LOOP_KEEPALIVES, 1);
    else if (length < ESP_MINIMUM)
        tally(worker, LOOP_SHORT, 1);
    else if (memcmp(octets, "\0\0\0\0", MARKER_LENGTH) == 0)
        pass_on(worker, path, octets, length);
    else
        open_esp(worker, path, traffic_class, octets, length);
}

/* Of a raw socket: IPv4 comes with its header, IPv6 without. */
static void take_raw(struct worker *worker, const fast_path *path, uint8_t traffic_class, uint8_t *octets, size_t length) {
    size_t header = 0;

    tally(worker, LOOP_RECEIVED, 1);
    if (path->local.version == 4 && length >= IPV4_HEADER_MINIMUM)
        header = (size_t)(octets[0] & 15) * 4;
    if (length < header + ESP_MINIMUM)
        tally(worker, LOOP_SHORT, 1);
    else
        open_esp(worker, path, traffic_class, octets + header, length - header);
}

static void take_message(struct worker *worker, const struct source *source, unsigned at) {
    struct msghdr *message = &worker->receiving[at].msg_hdr;
    size_t length = worker->receiving[at].msg_len, size = length;
    uint8_t *octets = worker->receive_parts[at].iov_base, traffic_class = 0;
    fast_path path = {.local = source->local};

    tally(worker, LOOP_RECEIVED_TRAINS, 1);
    if (message->msg_flags & MSG_TRUNC) {
        tally(worker, LOOP_TRUNCATED, 1);
        return;
    }
    for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control != NULL; control = CMSG_NXTHDR(message, control)) {
        int value = 0;

        if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_TOS) {
            traffic_class = *CMSG_DATA(control);
            continue;
        }
        memcpy(&value, CMSG_DATA(control), sizeof value);
        if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_TCLASS)
            traffic_class = (uint8_t)value;
        else if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO && value > 0)
            size = (size_t)value;
    }
    take_address(&path.remote, &worker->receive_addresses[at]);
    if (source->kind == LOOP_RAW) {
        path.remote.port = 0;
        take_raw(worker, &path, traffic_class, octets, length);
        return;
    }
    if (length == 0)
        take_datagram(worker, &path, traffic_class, octets, 0);
    for (size_t done = 0; done < length; done += size)
        take_datagram(worker, &path, traffic_class, octets + done, length - done < size ? length - done : size);
}

/* Errors that wait with IP_RECVERR keep a socket ready without a datagram. */
static void discard_error(struct worker *worker, struct source *source) {
    struct msghdr message = {.msg_iov = worker->receive_parts, .msg_iovlen = 1};

    if (recvmsg(source->descriptor, &message, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0)
        tally(worker, LOOP_RECEIVE_ERRORS, 1);
}

static void read_socket(struct worker *worker, struct source *source) {
    int messages;

    for (unsigned i = 0; i < BATCH; i++) {
        struct msghdr *message = &worker->receiving[i].msg_hdr;

        message->msg_namelen = sizeof worker->receive_addresses[i];
        message->msg_controllen = sizeof worker->receive_controls[i];
        message->msg_flags = 0;
    }
    messages = recvmmsg(source->descriptor, worker->receiving, BATCH, MSG_DONTWAIT, NULL);
    if (messages < 0) {
        int error = errno;

        if (error == EAGAIN)
            discard_error(worker, source);
        if (error == EAGAIN || error == EINTR)
            return;
        tally(worker, LOOP_RECEIVE_ERRORS, 1);
        if (is_gone(error) || ++source->errors == ERRORS_MAXIMUM)
            fail(worker->loop, source, error);
        return;
    }
    source->errors = 0;
    worker->opened = 0;
    fast_begin(worker->core);
    for (int i = 0; i < messages; i++)
        take_message(worker, source, (unsigned)i);
    fast_end(worker->core);
    coalesce_flush(&worker->coalescer);
}

/* ---- threads ---- */

static void serve(struct worker *worker, uint64_t key, bool urgent) {
    struct source *source = &worker->loop->sources[key & UINT32_MAX];

    if (source->generation != key >> 32 || source->urgent != urgent || !is_live(source))
        return; /* removed meanwhile */
    if (source->kind == LOOP_QUEUE)
        read_queue(worker, source);
    else
        read_socket(worker, source);
}

static void *run(void *context) {
    struct worker *worker = context;
    fast_loop *loop = worker->loop;
    struct epoll_event ready[BATCH];

    while (!__atomic_load_n(&loop->stopping, __ATOMIC_ACQUIRE)) {
        int found = epoll_wait(worker->epoll, ready, BATCH, -1);

        if (found <= 0)
            continue;
        worker->passed = 0;
        pthread_rwlock_rdlock(&loop->lock);
        for (int urgent = 1; urgent >= 0; urgent--)
            for (int i = 0; i < found; i++)
                if (ready[i].data.u64 != WAKE)
                    serve(worker, ready[i].data.u64, urgent);
        pthread_rwlock_unlock(&loop->lock);
        tally(worker, LOOP_TURNS, 1);
    }
    return NULL;
}

/* ---- control ---- */

static void free_worker(struct worker *worker) {
    if (worker == NULL)
        return;
    if (worker->epoll >= 0)
        close(worker->epoll);
    if (worker->core != NULL)
        fast_worker_free(worker->core);
    free(worker->inner);
    free(worker->sealed);
    free(worker->arrived);
    free(worker);
}

static struct worker *new_worker(fast_loop *loop, unsigned number) {
    struct worker *worker = calloc(1, sizeof *worker);
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = WAKE};

    if (worker == NULL)
        return NULL;
    worker->loop = loop;
    worker->number = number;
    worker->core = fast_worker_new(loop->core);
    worker->inner = malloc(PACKET_MAXIMUM);
    worker->sealed = malloc(SEALED_OCTETS);
    worker->arrived = malloc((size_t)BATCH * PACKET_MAXIMUM); /* touched only as far as messages are long */
    worker->coalescer.write = write_inner;
    worker->coalescer.context = worker;
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (worker->core == NULL || worker->inner == NULL || worker->sealed == NULL || worker->arrived == NULL ||
        worker->epoll < 0 || epoll_ctl(worker->epoll, EPOLL_CTL_ADD, loop->wake, &wake) < 0) {
        free_worker(worker);
        return NULL;
    }
    for (unsigned i = 0; i < BATCH; i++) {
        struct msghdr *message = &worker->receiving[i].msg_hdr;

        worker->receive_parts[i] = (struct iovec){worker->arrived + (size_t)i * PACKET_MAXIMUM, PACKET_MAXIMUM};
        message->msg_name = &worker->receive_addresses[i];
        message->msg_iov = &worker->receive_parts[i];
        message->msg_iovlen = 1;
        message->msg_control = worker->receive_controls[i].octets;
    }
    return worker;
}

fast_loop *fast_loop_new(fast_core *core, unsigned workers, int channel) {
    fast_loop *loop = calloc(1, sizeof *loop);
    pthread_rwlockattr_t kind;

    if (loop == NULL)
        return NULL;
    loop->core = core;
    loop->channel = channel;
    loop->events = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&loop->control, NULL);
    pthread_rwlockattr_init(&kind);
    pthread_rwlockattr_setkind_np(&kind, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&loop->lock, &kind);
    pthread_rwlockattr_destroy(&kind);
    while (loop->events >= 0 && loop->wake >= 0 && loop->count < workers) {
        struct worker *worker = new_worker(loop, loop->count);

        if (worker == NULL)
            break;
        loop->workers[loop->count++] = worker;
    }
    if (loop->count < workers || workers == 0) {
        fast_loop_free(loop);
        return NULL;
    }
    return loop;
}

void fast_loop_free(fast_loop *loop) {
    fast_loop_stop(loop);
    for (unsigned i = 0; i < loop->count; i++)
        free_worker(loop->workers[i]);
    for (unsigned i = 0; i < LOOP_SOURCES; i++)
        if (loop->sources[i].state != FREE)
            close(loop->sources[i].descriptor);
    if (loop->events >= 0)
        close(loop->events);
    if (loop->wake >= 0)
        close(loop->wake);
    close(loop->channel);
    pthread_rwlock_destroy(&loop->lock);
    pthread_mutex_destroy(&loop->control);
    free(loop);
}

static void join(fast_loop *loop) {
    eventfd_t ignored;

    __atomic_store_n(&loop->stopping, true, __ATOMIC_RELEASE);
    eventfd_write(loop->wake, 1);
    for (unsigned i = 0; i < loop->count; i++)
        if (loop->workers[i]->running) {
            pthread_join(loop->workers[i]->thread, NULL);
            loop->workers[i]->running = false;
        }
    eventfd_read(loop->wake, &ignored);
    __atomic_store_n(&loop->stopping, false, __ATOMIC_RELEASE);
}

int fast_loop_start(fast_loop *loop) {
    sigset_t all, before;
    int error = 0;

    pthread_mutex_lock(&loop->control);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
    for (unsigned i = 0; i < loop->count && error == 0; i++) {
        struct worker *worker = loop->workers[i];
        char name[16];

        if (worker->running)
            continue;
        error = pthread_create(&worker->thread, NULL, run, worker);
        worker->running = error == 0;
        if (worker->running) {
            snprintf(name, sizeof name, "esp-%u", i);
            pthread_setname_np(worker->thread, name);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        join(loop);
    pthread_mutex_unlock(&loop->control);
    return -error;
}

void fast_loop_stop(fast_loop *loop) {
    pthread_mutex_lock(&loop->control);
    join(loop);
    pthread_mutex_unlock(&loop->control);
}

static int add(fast_loop *loop, int descriptor, const struct source *wanted) {
    struct epoll_event event = {.events = EPOLLIN};
    struct source *source;
    unsigned at;
    int own, error;

    if (wanted->worker >= loop->count)
        return -EINVAL;
    own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return -errno;
    pthread_rwlock_wrlock(&loop->lock);
    for (at = 0; at < LOOP_SOURCES && loop->sources[at].state != FREE; at++)
        ;
    source = &loop->sources[at];
    if (at == LOOP_SOURCES || (wanted->kind == LOOP_QUEUE && loop->workers[wanted->worker]->queue != NULL)) {
        error = at == LOOP_SOURCES ? ENOSPC : EBUSY;
    } else {
        uint32_t generation = source->generation + 1;

        *source = *wanted;
        source->generation = generation;
        source->descriptor = own;
        event.data.u64 = (uint64_t)generation << 32 | at;
        error = epoll_ctl(loop->workers[wanted->worker]->epoll, EPOLL_CTL_ADD, own, &event) < 0 ? errno : 0;
        if (error == 0) {
            source->state = LIVE;
            if (at >= loop->high)
                loop->high = at + 1;
            if (wanted->kind == LOOP_QUEUE) {
                loop->workers[wanted->worker]->queue = source;
                loop->workers[wanted->worker]->coalescer.udp = wanted->udp;
            }
        }
    }
    pthread_rwlock_unlock(&loop->lock);
    if (error != 0) {
        close(own);
        return -error;
    }
    return (int)at;
}

int fast_loop_add_socket(fast_loop *loop, int descriptor, unsigned worker, enum loop_kind kind,
                         const fast_endpoint *local, bool urgent) {
    struct source source = {.kind = kind, .worker = worker, .urgent = urgent, .local = *local};
    int on = 1, done;

    if (kind == LOOP_RAW)
        source.local.port = 0;
    if (local->version == 4)
        done = setsockopt(descriptor, IPPROTO_IP, IP_RECVTOS, &on, sizeof on);
    else
        done = setsockopt(descriptor, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof on);
    if (done < 0)
        return -errno;
    if (kind == LOOP_UDP)
        setsockopt(descriptor, SOL_UDP, UDP_GRO, &on, sizeof on); /* kernels before 5.0 do without */
    return add(loop, descriptor, &source);
}

int fast_loop_add_queue(fast_loop *loop, int descriptor, unsigned worker, bool udp_offload) {
    struct source source = {.kind = LOOP_QUEUE, .worker = worker, .udp = udp_offload};

    return add(loop, descriptor, &source);
}

int fast_loop_remove(fast_loop *loop, int number) {
    struct source *source;
    bool found = false;

    if (number < 0 || number >= LOOP_SOURCES)
        return -ENOENT;
    source = &loop->sources[number];
    pthread_rwlock_wrlock(&loop->lock);
    if (source->state != FREE) {
        struct worker *worker = loop->workers[source->worker];

        if (source->state == LIVE)
            epoll_ctl(worker->epoll, EPOLL_CTL_DEL, source->descriptor, NULL);
        if (worker->queue == source)
            worker->queue = NULL;
        close(source->descriptor);
        source->state = FREE;
        found = true;
    }
    pthread_rwlock_unlock(&loop->lock);
    return found ? 0 : -ENOENT;
}

static void gather(uint64_t *sums, const uint64_t *counters, unsigned length) {
    for (unsigned i = 0; i < length; i++)
        sums[i] += __atomic_load_n(&counters[i], __ATOMIC_RELAXED);
}

void fast_loop_read(fast_loop *loop, struct loop_totals *totals) {
    memset(totals, 0, sizeof *totals);
    for (unsigned i = 0; i < loop->count; i++) {
        const struct loop_totals *one = &loop->workers[i]->totals;

        gather(totals->counters, one->counters, LOOP_COUNTERS);
        gather(totals->sealing, one->sealing, FAST_REASONS);
        gather(totals->opening, one->opening, FAST_REASONS);
    }
}

bool fast_loop_failure(fast_loop *loop, int *number, int *error) {
    bool found = false;

    pthread_rwlock_wrlock(&loop->lock);
    for (int i = 0; i < LOOP_SOURCES && !found; i++)
        if (loop->sources[i].state == FAILED) {
            loop->sources[i].state = TOLD;
            *number = i;
            *error = loop->sources[i].error;
            found = true;
        }
    pthread_rwlock_unlock(&loop->lock);
    return found;
}

int fast_loop_eventfd(const fast_loop *loop) {
    return loop->events;
}
