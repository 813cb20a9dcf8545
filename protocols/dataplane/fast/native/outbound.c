/* From the TUN device to the network: segment, seal, send. */
#define _GNU_SOURCE

#include "worker.h"

#include <unistd.h>

#define TRAIN_PACKETS 64              /* UDP_MAX_SEGMENTS of kernels before 6.9 */
#define TRAIN_OCTETS 65000            /* below what an IP packet can carry */
#define SUPER_PACKET (32 * 1024)      /* read and so long, packets are sealed before more are read */
#define BATCH_ROOM (128 * 1024)       /* for as much and a super-packet, sealed, unless segments are tiny */

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
            local.port = source->local.port;
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

/* An error may be that of an earlier packet, whomever that was for (ip(7), IP_RECVERR). */
static bool send_message(struct source *source, const struct msghdr *message) {
    return sendmsg(source->descriptor, message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ||
           (errno == ECONNREFUSED && sendmsg(source->descriptor, message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0);
}

static void count_unsent(struct worker *worker, struct source *source, int error, unsigned packets) {
    tally(worker, has_no_room(error) ? LOOP_SOCKET_FULL : LOOP_SEND_ERRORS, packets);
    if (is_gone(error))
        source_failed(worker->loop, source, error);
}

/* Packets that the kernel did not want to cut itself. */
static void send_singly(struct worker *worker, const struct train *train) {
    for (size_t at = 0; at < train->length; at += train->size) {
        size_t length = train->length - at < train->size ? train->length - at : train->size;

        put_message(worker, 0, train, train->octets + at, length, 0);
        if (send_message(train->source, &worker->sending[0].msg_hdr)) {
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
    bool again = false;

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
            again = false;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno == ECONNREFUSED && !again) { /* of an earlier packet, whomever that was for */
            again = true;
            continue;
        }
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
        again = false;
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

/* RFC 4301 §8.2.1: a packet too long for its path is fragmented or answered elsewhere, one answer for a super-packet. */
static void pass_long(struct worker *worker, const uint8_t *packet, size_t length, uint32_t inbound_spi) {
    bool fragmentable = packet[0] >> 4 == 4 && !(packet[6] & 0x40);

    if (!fragmentable && worker->answered) {
        count(&worker->totals.sealing[FAST_TOO_BIG], 1);
    } else if (worker->long_passed < BATCH &&
               send(worker->loop->long_channel, packet, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
        worker->long_passed++;
        worker->answered = !fragmentable;
        tally(worker, LOOP_LONG, 1);
        return;
    } else {
        tally(worker, LOOP_LONG_DROPPED, 1);
    }
    fast_count_long(worker->core, inbound_spi, false, false, true);
}

static void seal(struct worker *worker, const uint8_t *packet, size_t length) {
    fast_where where;
    int octets;

    tally(worker, LOOP_TUN_PACKETS, 1);
    if (worker->trains == BATCH || SEALED_OCTETS - worker->used < length + FAST_OVERHEAD)
        send_trains(worker);
    octets = fast_seal(worker->core, packet, length, worker->sealed + worker->used, SEALED_OCTETS - worker->used, &where);
    if (octets == -FAST_TOO_BIG) {
        pass_long(worker, packet, length, where.inbound_spi);
        return;
    }
    if (octets <= 0) {
        count(&worker->totals.sealing[-octets], 1);
        return;
    }
    tally(worker, LOOP_SEALED, 1);
    join_train(worker, (size_t)octets, &where);
}

static uint8_t *slot(struct worker *worker, unsigned at) {
    return worker->inner + (size_t)at * INNER_SLOT;
}

/* Packets behind their virtio_net_hdr, as they were read. */
static void seal_batch(struct worker *worker, struct outlet *from, const fast_octets *batch, unsigned packets_read) {
    fast_octets packets[FAST_EXPECTED];
    struct virtio_net_hdr header;
    uint8_t *packet;

    for (unsigned i = 0; i < packets_read; i++)
        packets[i] = (fast_octets){batch[i].octets + sizeof header, batch[i].length - sizeof header};
    fast_begin(worker->core);
    if (packets_read > 1)
        fast_expect_inner(worker->core, packets, packets_read);
    for (unsigned i = 0; i < packets_read; i++) {
        uint64_t before = worker->totals.counters[LOOP_TUN_PACKETS], segments;
        size_t length;

        memcpy(&header, batch[i].octets, sizeof header);
        if (!segment_begin(&worker->segmenter, &header, slot(worker, i) + sizeof header, packets[i].length)) {
            tally(worker, LOOP_TUN_MALFORMED, 1);
            continue;
        }
        worker->answered = false;
        while ((length = segment_next(&worker->segmenter, &packet)) > 0)
            seal(worker, packet, length);
        segments = worker->totals.counters[LOOP_TUN_PACKETS] - before;
        count(&from->totals.read, segments);
        if (segments > 1)
            tally(worker, LOOP_TUN_SUPER_PACKETS, 1);
    }
    fast_end(worker->core);
}

/* False when there is no more. */
static bool read_batch(struct worker *worker, struct source *source, fast_octets *batch, unsigned *count) {
    size_t all = 0;

    for (*count = 0; *count < FAST_EXPECTED && all < SUPER_PACKET;) {
        ssize_t octets = read(source->descriptor, slot(worker, *count), INNER_SLOT);
        int error = octets == 0 ? EPIPE : errno; /* 0: its other end is gone, which a TUN device says otherwise */

        if (octets > (ssize_t)sizeof(struct virtio_net_hdr)) {
            batch[*count] = (fast_octets){slot(worker, *count), (size_t)octets};
            (*count)++;
            all += (size_t)octets;
            source->errors = 0;
        } else if (octets > 0 || (error != EAGAIN && error != EINTR && !is_gone(error) &&
                                  ++source->errors < ERRORS_MAXIMUM)) {
            tally(worker, LOOP_TUN_MALFORMED, 1); /* EINVAL: one that the kernel finds no virtio_net_hdr for */
        } else if (error != EINTR) {
            if (error != EAGAIN)
                source_failed(worker->loop, source, error);
            return false;
        }
    }
    return true;
}

void read_queue(struct worker *worker, struct source *source) {
    fast_octets batch[FAST_EXPECTED];
    unsigned packets = 0, count;
    bool more = true;

    while (more && packets < BATCH && SEALED_OCTETS - worker->used >= BATCH_ROOM) {
        more = read_batch(worker, source, batch, &count);
        if (count > 0)
            seal_batch(worker, worker->outlets[source->device], batch, count);
        packets += count;
    }
    send_trains(worker);
}
