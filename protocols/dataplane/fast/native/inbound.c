/* From the network to the TUN device: receive, sort out what is no ESP, open, coalesce. */
#define _GNU_SOURCE

#include "worker.h"

#include <sys/uio.h>

#include <linux/errqueue.h>

#define ESP_MINIMUM 9     /* SPI, sequence number and something */
#define NON_ESP_MARKER "\0\0\0\0" /* RFC 3948 section 2.2 */
#define MARKER_LENGTH 4
#define KEEPALIVE 0xFF    /* RFC 3948 section 2.3 */
#define ERRORS_OF_A_TURN 16 /* of ICMP, taken from a socket */
#define IPV4_HEADER_MINIMUM 20

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

void write_inner(void *context, const struct iovec *parts, int count_of_parts, unsigned packets) {
    struct outlet *outlet = context;
    struct worker *worker = outlet->worker;
    ssize_t octets;

    if (outlet->queue == NULL || !is_live(outlet->queue)) {
        tally(worker, LOOP_NO_TUN, packets);
        return;
    }
    do
        octets = writev(outlet->queue->descriptor, parts, count_of_parts);
    while (octets < 0 && errno == EINTR);
    if (octets >= 0) {
        tally(worker, LOOP_WRITTEN, packets);
        count(&outlet->totals.written, packets);
        if (packets > 1)
            tally(worker, LOOP_WRITTEN_SUPER_PACKETS, 1);
        return;
    }
    tally(worker, has_no_room(errno) ? LOOP_TUN_FULL : LOOP_TUN_REFUSED, packets);
    count(&outlet->totals.refused, packets);
    if (is_gone(errno))
        source_failed(worker->loop, outlet->queue, errno);
}

/* To the channel; whether there was room. */
static bool pass_on(struct worker *worker, const fast_path *path, uint8_t *octets, size_t length, bool error) {
    struct loop_frame frame = {.version = path->local.version,
                               .error = error,
                               .local_port = path->local.port,
                               .remote_port = path->remote.port};
    struct iovec parts[2] = {{&frame, sizeof frame}, {octets, length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

    memcpy(frame.local, path->local.address, sizeof frame.local);
    memcpy(frame.remote, path->remote.address, sizeof frame.remote);
    if (worker->passed == BATCH || sendmsg(worker->loop->channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return false;
    worker->passed++;
    return true;
}

static void open_esp(struct worker *worker, const fast_path *path, uint8_t traffic_class, uint8_t *esp, size_t length) {
    uint8_t *inner;
    unsigned device;
    int octets;

    if (worker->opened++ == BATCH) { /* let control calls in */
        fast_end(worker->core);
        fast_begin(worker->core);
        worker->opened = 1;
    }
    octets = fast_open(worker->core, esp, length, path, traffic_class, &inner, &device);
    if (octets <= 0) {
        count(&worker->totals.opening[-octets], 1);
        return;
    }
    tally(worker, LOOP_OPENED, 1);
    if (worker->outlets[device] == NULL) {
        tally(worker, LOOP_NO_TUN, 1);
        return;
    }
    worker->waiting |= (uint64_t)1 << device;
    coalesce_packet(&worker->outlets[device]->coalescer, inner, (size_t)octets);
}

/* RFC 3948 section 2: what a datagram on the port is. */
static void take_datagram(struct worker *worker, const fast_path *path, uint8_t traffic_class, uint8_t *octets,
                          size_t length) {
    tally(worker, LOOP_RECEIVED, 1);
    if (length == 1 && octets[0] == KEEPALIVE)
        tally(worker, LOOP_KEEPALIVES, 1);
    else if (length < ESP_MINIMUM)
        tally(worker, LOOP_SHORT, 1);
    else if (memcmp(octets, NON_ESP_MARKER, MARKER_LENGTH) == 0)
        tally(worker, pass_on(worker, path, octets, length, false) ? LOOP_OTHER : LOOP_OTHER_DROPPED, 1);
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

/* The first packet of each message from first on: where they are many, they are of many SAs. */
static void expect(struct worker *worker, unsigned first, unsigned messages) {
    fast_octets packets[FAST_EXPECTED];
    unsigned count = 0;

    for (; count < FAST_EXPECTED && first + count < messages; count++)
        packets[count] = (fast_octets){worker->receive_parts[first + count].iov_base,
                                       worker->receiving[first + count].msg_len};
    fast_expect_esp(worker->core, packets, count);
}

static bool is_icmp(const struct cmsghdr *control) {
    struct sock_extended_err error;

    if (!(control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_RECVERR) &&
        !(control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_RECVERR))
        return false;
    memcpy(&error, CMSG_DATA(control), sizeof error);
    return error.ee_origin == SO_EE_ORIGIN_ICMP || error.ee_origin == SO_EE_ORIGIN_ICMP6;
}

/* Errors that wait with IP_RECVERR keep a socket ready without a datagram. Anybody can send ICMP: they end no socket.
 * Whether there was one. */
static bool take_errors(struct worker *worker, struct source *source) {
    uint8_t *octets = worker->receive_parts[0].iov_base;
    union {
        char octets[512];
        struct cmsghdr aligned;
    } controls;
    unsigned taken;

    for (taken = 0; taken < ERRORS_OF_A_TURN; taken++) {
        struct msghdr message = {.msg_name = &worker->receive_addresses[0],
                                 .msg_namelen = sizeof worker->receive_addresses[0],
                                 .msg_iov = worker->receive_parts,
                                 .msg_iovlen = 1,
                                 .msg_control = controls.octets,
                                 .msg_controllen = sizeof controls};
        ssize_t length = recvmsg(source->descriptor, &message, MSG_ERRQUEUE | MSG_DONTWAIT);
        fast_path path = {.local = source->local};
        bool icmp = false;

        if (length < 0)
            break;
        tally(worker, LOOP_RECEIVE_ERRORS, 1);
        for (struct cmsghdr *control = CMSG_FIRSTHDR(&message); control != NULL; control = CMSG_NXTHDR(&message, control))
            icmp = icmp || is_icmp(control);
        if (!icmp || source->kind != LOOP_UDP || length < MARKER_LENGTH || memcmp(octets, NON_ESP_MARKER, MARKER_LENGTH) != 0)
            continue;
        take_address(&path.remote, &worker->receive_addresses[0]);
        if (pass_on(worker, &path, octets, (size_t)length, true))
            tally(worker, LOOP_UNREACHABLE, 1);
    }
    return taken > 0;
}

void read_socket(struct worker *worker, struct source *source) {
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

        bool reported = error != EINTR && take_errors(worker, source);

        if (error == EAGAIN || error == EINTR)
            return;
        if (!reported)
            tally(worker, LOOP_RECEIVE_ERRORS, 1);
        if (is_gone(error) || (!reported && ++source->errors == ERRORS_MAXIMUM))
            source_failed(worker->loop, source, error);
        return;
    }
    source->errors = 0;
    worker->opened = 0;
    fast_begin(worker->core);
    for (int i = 0; i < messages; i++) {
        if (i % FAST_EXPECTED == 0 && messages - i > 1 && source->kind == LOOP_UDP)
            expect(worker, (unsigned)i, (unsigned)messages);
        take_message(worker, source, (unsigned)i);
    }
    fast_end(worker->core);
    for (; worker->waiting != 0; worker->waiting &= worker->waiting - 1)
        coalesce_flush(&worker->outlets[__builtin_ctzll(worker->waiting)]->coalescer);
    fast_release(worker->core);
}
