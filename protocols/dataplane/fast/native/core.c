#define _GNU_SOURCE
#include "core.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "beet.h"
#include "headers.h"
#include "index.h"

#ifndef MADV_COLLAPSE /* a C library's headers may be older than the kernel */
#define MADV_COLLAPSE 25
#endif

enum { SPI_LENGTH = 4, IPIP = 4, IPV6 = 41, NO_NEXT_HEADER = 59, FIRST_BUCKETS = 64 };
enum { SHORT_LENGTH = 500 }; /* no path carries less of a packet */
enum { HUGE_PAGE = 2 << 20, DENSE = 64 }; /* so many SAs in a huge page are worth one */

struct fast_core {
    pthread_rwlock_t lock; /* workers read, control calls write */
    struct sa **by_spi;
    size_t installed, mask;
    struct outbound_index outbound;
    struct suite *suites;
    fast_worker *workers;
    bool libcrypto_alone;
    unsigned most_contexts; /* of AEAD suites that are kept; those of later transforms are borrowed */
    atomic_uint kept_contexts;
    uintptr_t filled; /* the huge page that SAs were last put in, and how many */
    size_t filled_by;
    fast_policy policy;
    atomic_uint_fast64_t drops[FAST_DEVICES + 1][FAST_REASONS]; /* by device, the last of none */
    fast_carried gone[FAST_DEVICES];                            /* by SAs that are removed */

    pthread_mutex_t event_lock;
    struct waiting_event *first_event, *last_event;
    int eventfd; /* readable while first_event stands */
};

/* A packet to come, and how far what its SA keeps is found. */
struct awaited {
    fast_octets packet;
    flow_address prefix;
    uint32_t spi;
    struct place **place_bucket;
    struct sa **sa_bucket;
    const struct place *place;
    const struct sa *sa;
    const struct transform *transform;
};

struct fast_worker {
    fast_core *core;
    fast_worker *next;
    struct means means;
    size_t awaited, steps; /* 0: none */
    bool inner;
    unsigned device;
    struct awaited to_come[FAST_EXPECTED];
    struct shelves shelves;
};

fast_core *fast_core_new(unsigned contexts, bool libcrypto_alone) {
    fast_core *core = calloc(1, sizeof *core);
    if (!core)
        return NULL;
    core->policy = (fast_policy){.dscp = FAST_INNER_DSCP, .mss = FAST_ANY_MSS};
    core->most_contexts = contexts;
    core->libcrypto_alone = libcrypto_alone;
    core->mask = FIRST_BUCKETS - 1;
    core->by_spi = calloc(FIRST_BUCKETS, sizeof *core->by_spi);
    core->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!core->by_spi || core->eventfd < 0) {
        int error = core->by_spi ? errno : ENOMEM;
        if (core->eventfd >= 0)
            close(core->eventfd);
        free(core->by_spi);
        free(core);
        errno = error;
        return NULL;
    }
    pthread_mutex_init(&core->event_lock, NULL);
    /* Busy workers must not keep a control call out. */
    pthread_rwlockattr_t writer_first;
    pthread_rwlockattr_init(&writer_first);
    pthread_rwlockattr_setkind_np(&writer_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&core->lock, &writer_first);
    pthread_rwlockattr_destroy(&writer_first);
    return core;
}

/* Whether it may have a context of libcrypto's or borrow one. */
static bool may_borrow(const struct suite *suite) {
    return suite->kind <= KIND_CHACHA && !suite->gcm;
}

static bool keeps_context(const struct transform *transform) {
    return transform->cipher && may_borrow(transform->suite);
}

static void add_carried(fast_carried *sum, const struct sa *sa) {
    sum->inbound_packets += counter_read(&sa->inbound_packets);
    sum->inbound_octets += counter_read(&sa->inbound_octets);
    sum->outbound_packets += counter_read(&sa->outbound_packets);
    sum->outbound_octets += counter_read(&sa->outbound_octets);
}

static void forget(fast_core *core, struct sa *sa) {
    for (fast_worker *worker = core->workers; worker; worker = worker->next) {
        means_forget(&worker->means, &sa->inbound);
        means_forget(&worker->means, &sa->outbound);
    }
    core->kept_contexts -= keeps_context(&sa->inbound) + keeps_context(&sa->outbound);
    index_discard(sa);
    index_release(&core->outbound, sa);
    sa_free(sa);
}

void fast_core_free(fast_core *core) {
    for (size_t at = 0; at <= core->mask; at++)
        for (struct sa *sa = core->by_spi[at], *next; sa; sa = next) {
            next = sa->next;
            forget(core, sa);
        }
    for (struct suite *suite = core->suites, *next; suite; suite = next) {
        next = suite->next;
        suite_free(suite);
    }
    pthread_rwlock_destroy(&core->lock);
    pthread_mutex_destroy(&core->event_lock);
    close(core->eventfd);
    free(core->by_spi);
    free(core);
}

fast_worker *fast_worker_new(fast_core *core) {
    fast_worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return NULL;
    worker->core = core;
    pthread_rwlock_wrlock(&core->lock);
    worker->next = core->workers;
    core->workers = worker;
    pthread_rwlock_unlock(&core->lock);
    return worker;
}

void fast_worker_free(fast_worker *worker) {
    fast_core *core = worker->core;
    pthread_rwlock_wrlock(&core->lock);
    fast_worker **at = &core->workers;
    while (*at != worker)
        at = &(*at)->next;
    *at = worker->next;
    pthread_rwlock_unlock(&core->lock);
    means_free(&worker->means);
    shelves_free(&worker->shelves);
    free(worker);
}

void fast_begin(fast_worker *worker) {
    pthread_rwlock_rdlock(&worker->core->lock);
}

void fast_end(fast_worker *worker) {
    worker->awaited = 0;
    pthread_rwlock_unlock(&worker->core->lock);
}

/* Events */

static struct sa *sa_of(struct waiting_event *event) {
    return (struct sa *)((char *)(event - event->kind) - offsetof(struct sa, events));
}

static void unlink_event(fast_core *core, struct waiting_event *event) {
    *(event->previous ? &event->previous->next : &core->first_event) = event->next;
    *(event->next ? &event->next->previous : &core->last_event) = event->previous;
    event->next = event->previous = NULL;
    event->queued = false;
    uint64_t count;
    if (!core->first_event && read(core->eventfd, &count, sizeof count) < 0)
        return; /* nothing to take back */
}

/* Queue an event, or let the one that waits say this; observed: where, if it says that. */
static void report(fast_core *core, struct sa *sa, enum fast_event_kind kind, bool last, const fast_path *observed) {
    struct waiting_event *event = &sa->events[kind];
    static const uint64_t one = 1;
    pthread_mutex_lock(&core->event_lock);
    event->last = last;
    if (observed)
        sa->observed = *observed;
    if (!event->queued) {
        event->queued = true;
        event->previous = core->last_event;
        *(core->last_event ? &core->last_event->next : &core->first_event) = event;
        core->last_event = event;
        if (!event->previous && write(core->eventfd, &one, sizeof one) < 0)
            event->queued = true; /* the counter stands at its most, and is readable */
    }
    pthread_mutex_unlock(&core->event_lock);
}

static void withdraw(fast_core *core, struct sa *sa, enum fast_event_kind kind) {
    pthread_mutex_lock(&core->event_lock);
    if (sa->events[kind].queued)
        unlink_event(core, &sa->events[kind]);
    pthread_mutex_unlock(&core->event_lock);
}

bool fast_poll_event(fast_core *core, fast_event *event) {
    pthread_mutex_lock(&core->event_lock);
    struct waiting_event *first = core->first_event;
    if (first) {
        const struct sa *sa = sa_of(first);
        *event = (fast_event){.kind = first->kind, .inbound_spi = sa->inbound_spi, .last = first->last};
        if (first->kind == FAST_PEER_ENDPOINT_OBSERVED)
            event->path = sa->observed;
        unlink_event(core, first);
    }
    pthread_mutex_unlock(&core->event_lock);
    return first != NULL;
}

int fast_core_eventfd(const fast_core *core) {
    return core->eventfd;
}

/* Control */

static struct sa **bucket_of(const fast_core *core, uint32_t spi) {
    uint32_t mixed = (spi ^ spi >> 16) * 0x85EBCA6Bu;
    return &core->by_spi[(mixed ^ mixed >> 15) & core->mask];
}

static struct sa *find(const fast_core *core, uint32_t spi) {
    struct sa *sa = *bucket_of(core, spi);
    while (sa && sa->inbound_spi != spi)
        sa = sa->next;
    return sa;
}

/* Twice the buckets; without the memory the chains grow instead. */
static void grow(fast_core *core) {
    size_t old = core->mask + 1;
    struct sa **before = core->by_spi, **buckets = calloc(2 * old, sizeof *buckets);
    if (!buckets)
        return;
    core->by_spi = buckets;
    core->mask = 2 * old - 1;
    for (size_t at = 0; at < old; at++)
        for (struct sa *sa = before[at], *next; sa; sa = next) {
            next = sa->next;
            struct sa **bucket = bucket_of(core, sa->inbound_spi);
            sa->next = *bucket;
            *bucket = sa;
        }
    free(before);
}

static const struct suite *suite_of(fast_core *core, const fast_spec *spec, size_t key_length) {
    for (struct suite *suite = core->suites; suite; suite = suite->next)
        if (suite->encryption == spec->encryption && suite->integrity == spec->integrity && suite->esn == spec->esn &&
            suite->key_length == key_length)
            return suite;
    struct suite *suite = suite_new(spec->encryption, spec->integrity, key_length, spec->esn, core->libcrypto_alone);
    if (suite) {
        suite->next = core->suites;
        core->suites = suite;
    }
    return suite;
}

/* Make the contexts of a transform that nobody uses, or whose lock is held; false: no memory. */
static bool key(fast_core *core, struct transform *transform, bool sealing) {
    if (!may_borrow(transform->suite))
        return transform_key(transform, sealing, false);
    bool borrows = atomic_fetch_add(&core->kept_contexts, 1) >= core->most_contexts;
    bool keyed = transform_key(transform, sealing, borrows);
    if (borrows || !keyed)
        core->kept_contexts--;
    return keyed;
}

/* SAs and contexts are spread over very many pages, which takes longer to look up than to fetch them: ask the kernel to
 * make one of the last 512 once they are full (Linux 6.1; elsewhere nothing comes of it). */
static void gather(fast_core *core, const struct sa *sa) {
    uintptr_t page = (uintptr_t)sa & ~(uintptr_t)(HUGE_PAGE - 1);
    if (page == core->filled) {
        core->filled_by++;
        return;
    }
    if (core->filled_by >= DENSE)
        madvise((void *)core->filled, HUGE_PAGE, MADV_COLLAPSE);
    core->filled = page;
    core->filled_by = 1;
}

static enum fast_outcome install(fast_core *core, const fast_spec *spec, struct sa **installed) {
    if (find(core, spec->inbound_spi))
        return FAST_TAKEN;
    const struct suite *inbound = suite_of(core, spec, spec->inbound_encryption_key.length);
    const struct suite *outbound = suite_of(core, spec, spec->outbound_encryption_key.length);
    if (!inbound || !outbound || !spec->local_count || !spec->remote_count || spec->device >= FAST_DEVICES ||
        spec->replay_window > FAST_WINDOW_MAXIMUM || (spec->esn && !spec->replay_window) ||
        spec->inbound_integrity_key.length != inbound->mac_key_length ||
        spec->outbound_integrity_key.length != outbound->mac_key_length)
        return FAST_UNSUPPORTED;
    struct sa *sa = sa_new(spec, inbound, outbound);
    if (!sa)
        return FAST_NO_MEMORY;
    if (!index_reserve(&core->outbound, sa)) {
        sa_free(sa);
        return FAST_NO_MEMORY;
    }
    if (2 * core->installed++ > core->mask)
        grow(core);
    struct sa **bucket = bucket_of(core, sa->inbound_spi);
    sa->next = *bucket;
    *bucket = sa;
    *installed = sa;
    /* Its contexts beside it; what there is no memory for, the first packet asks for again. */
    key(core, &sa->outbound, true);
    key(core, &sa->inbound, false);
    gather(core, sa);
    return FAST_DONE;
}

static void wait_for(struct sa *sa, struct sa *old) {
    sa->waits_for = old;
    sa->next_successor = NULL;
    *old->successors_end = sa;
    old->successors_end = &sa->next_successor;
}

static void stop_waiting(struct sa *sa) {
    struct sa *old = sa->waits_for, **at = &old->successors;
    while (*at != sa)
        at = &(*at)->next_successor;
    *at = sa->next_successor;
    if (!sa->next_successor)
        old->successors_end = at;
    sa->waits_for = NULL;
}

/* A successor begins to send. */
static void take_over(fast_core *core, struct sa *sa) {
    stop_waiting(sa);
    index_add(&core->outbound, sa);
}

void fast_set_policy(fast_core *core, const fast_policy *policy) {
    pthread_rwlock_wrlock(&core->lock);
    core->policy = *policy;
    pthread_rwlock_unlock(&core->lock);
}

enum fast_outcome fast_install(fast_core *core, const fast_spec *spec) {
    struct sa *sa;
    pthread_rwlock_wrlock(&core->lock);
    enum fast_outcome outcome = install(core, spec, &sa);
    if (outcome == FAST_DONE)
        index_add(&core->outbound, sa);
    pthread_rwlock_unlock(&core->lock);
    return outcome;
}

enum fast_outcome fast_replace(fast_core *core, uint32_t old_inbound_spi, const fast_spec *spec, bool send_at_once) {
    struct sa *sa;
    pthread_rwlock_wrlock(&core->lock);
    struct sa *old = find(core, old_inbound_spi);
    enum fast_outcome outcome = old ? install(core, spec, &sa) : FAST_NOT_THERE;
    if (outcome == FAST_DONE && !send_at_once)
        wait_for(sa, old);
    else if (outcome == FAST_DONE) {
        index_add(&core->outbound, sa);
        while (old->successors) { /* RFC 7296 §2.8.1: overtaken, they wait for this one */
            struct sa *waiting = old->successors;
            stop_waiting(waiting);
            wait_for(waiting, sa);
        }
    }
    pthread_rwlock_unlock(&core->lock);
    return outcome;
}

enum fast_outcome fast_update_path(fast_core *core, uint32_t inbound_spi, const fast_path *path, bool encapsulation) {
    pthread_rwlock_wrlock(&core->lock);
    struct sa *sa = find(core, inbound_spi);
    if (sa) {
        sa->path = *path;
        sa->encapsulation = encapsulation;
        sa->elsewhere = false;
        withdraw(core, sa, FAST_PEER_ENDPOINT_OBSERVED);
    }
    pthread_rwlock_unlock(&core->lock);
    return sa ? FAST_DONE : FAST_NOT_THERE;
}

enum fast_outcome fast_set_inner_mtu(fast_core *core, uint32_t inbound_spi, uint32_t octets) {
    pthread_rwlock_wrlock(&core->lock);
    struct sa *sa = find(core, inbound_spi);
    if (sa)
        sa->inner_mtu = octets;
    pthread_rwlock_unlock(&core->lock);
    return sa ? FAST_DONE : FAST_NOT_THERE;
}

static void retire(fast_core *core, struct sa *sa) {
    while (sa->successors)
        take_over(core, sa->successors);
    if (sa->waits_for)
        stop_waiting(sa);
    else
        index_discard(sa);
}

enum fast_outcome fast_retire(fast_core *core, uint32_t inbound_spi) {
    pthread_rwlock_wrlock(&core->lock);
    struct sa *sa = find(core, inbound_spi);
    if (sa)
        retire(core, sa);
    pthread_rwlock_unlock(&core->lock);
    return sa ? FAST_DONE : FAST_NOT_THERE;
}

enum fast_outcome fast_remove(fast_core *core, uint32_t inbound_spi) {
    pthread_rwlock_wrlock(&core->lock);
    struct sa **at = bucket_of(core, inbound_spi);
    while (*at && (*at)->inbound_spi != inbound_spi)
        at = &(*at)->next;
    struct sa *sa = *at;
    if (sa) {
        retire(core, sa);
        *at = sa->next;
        core->installed--;
        for (int kind = 0; kind < FAST_EVENT_KINDS; kind++)
            withdraw(core, sa, kind);
        add_carried(&core->gone[sa->device], sa);
        forget(core, sa);
    }
    pthread_rwlock_unlock(&core->lock);
    return sa ? FAST_DONE : FAST_NOT_THERE;
}

enum fast_outcome fast_read_counters(fast_core *core, uint32_t inbound_spi, fast_counters *counters) {
    pthread_rwlock_rdlock(&core->lock);
    const struct sa *sa = find(core, inbound_spi);
    if (sa)
        *counters = (fast_counters){
            .inbound_packets = counter_read(&sa->inbound_packets),
            .strayed_packets = counter_read(&sa->strayed_packets),
            .inbound_octets = counter_read(&sa->inbound_octets),
            .outbound_packets = counter_read(&sa->outbound_packets),
            .outbound_octets = counter_read(&sa->outbound_octets),
            .replayed = counter_read(&sa->dropped[FAST_REPLAYED]),
            .bad_icv = counter_read(&sa->dropped[FAST_BAD_ICV]),
            .bad_selector = counter_read(&sa->dropped[FAST_BAD_SELECTOR]),
            .malformed = counter_read(&sa->dropped[FAST_MALFORMED]),
            .dummy = counter_read(&sa->dropped[FAST_DUMMY]),
            .fragment = counter_read(&sa->dropped[FAST_FRAGMENT]),
            .congestion = counter_read(&sa->dropped[FAST_CONGESTION]),
            .too_big = counter_read(&sa->dropped[FAST_TOO_BIG]),
            .fragmented = counter_read(&sa->fragmented),
            .mss_clamped = counter_read(&sa->mss_clamped),
            .congestion_marked = counter_read(&sa->congestion_marked),
            .ecn_unused = counter_read(&sa->ecn_unused),
            .overhead_saved_octets = counter_read(&sa->inbound_saved) + counter_read(&sa->outbound_saved),
        };
    pthread_rwlock_unlock(&core->lock);
    return sa ? FAST_DONE : FAST_NOT_THERE;
}

void fast_read_carried(fast_core *core, unsigned device, fast_carried *carried) {
    pthread_rwlock_rdlock(&core->lock);
    *carried = core->gone[device];
    for (size_t at = 0; at <= core->mask; at++)
        for (const struct sa *sa = core->by_spi[at]; sa; sa = sa->next)
            if (sa->device == device)
                add_carried(carried, sa);
    pthread_rwlock_unlock(&core->lock);
}

enum fast_outcome fast_read_sequences(fast_core *core, uint32_t inbound_spi, uint64_t *sent, uint64_t *accepted) {
    pthread_rwlock_wrlock(&core->lock);
    const struct sa *sa = find(core, inbound_spi);
    if (sa) {
        *sent = sa->sequence;
        *accepted = sa->window.top;
    }
    pthread_rwlock_unlock(&core->lock);
    return sa ? FAST_DONE : FAST_NOT_THERE;
}

enum fast_outcome fast_skip_sequence(fast_core *core, uint32_t inbound_spi, uint64_t sent) {
    pthread_rwlock_wrlock(&core->lock);
    struct sa *sa = find(core, inbound_spi);
    enum fast_outcome outcome = sa ? FAST_DONE : FAST_NOT_THERE;
    if (sa && (sent < sa->sequence || sent > sa->maximum_sequence))
        outcome = FAST_UNSUPPORTED;
    else if (sa)
        sa->sequence = sent;
    pthread_rwlock_unlock(&core->lock);
    return outcome;
}

void fast_read_drops_of(fast_core *core, unsigned device, uint64_t drops[FAST_REASONS]) {
    for (int reason = 0; reason < FAST_REASONS; reason++)
        drops[reason] = atomic_load_explicit(&core->drops[device][reason], memory_order_relaxed);
}

void fast_read_drops(fast_core *core, uint64_t drops[FAST_REASONS]) {
    uint64_t of[FAST_REASONS];
    memset(drops, 0, sizeof of);
    for (unsigned device = 0; device <= FAST_DEVICES; device++) {
        fast_read_drops_of(core, device, of);
        for (int reason = 0; reason < FAST_REASONS; reason++)
            drops[reason] += of[reason];
    }
}

size_t fast_installed(fast_core *core) {
    pthread_rwlock_rdlock(&core->lock);
    size_t installed = core->installed;
    pthread_rwlock_unlock(&core->lock);
    return installed;
}

/* Hints */

enum { CACHED = 256 }; /* so many SAs stay in the cache by themselves */
enum { APART = 2 };    /* packets between the steps, each of which needs what the one before has fetched */
/* Of libcrypto 3 with AES-GCM, and with AES-CBC and HMAC: one piece of memory behind the other, as they were made. */
enum { AEAD_OCTETS = 1160, CIPHER_AND_MAC_OCTETS = 1600 };

static void fetch(const void *from, size_t octets) {
    const char *end = (const char *)from + octets;
    for (const char *line = (const char *)((uintptr_t)from & ~(uintptr_t)(LINE - 1)); line < end; line += LINE)
        __builtin_prefetch(line, 0, 1); /* too many for the first-level cache */
}

static void find_bucket(const fast_worker *worker, struct awaited *it, const struct awaited *before) {
    it->place_bucket = NULL;
    it->sa_bucket = NULL;
    it->prefix = 0;
    it->spi = 0;
    if (worker->inner) {
        struct flow flow;
        if (!flow_read(&flow, it->packet.octets, it->packet.length))
            return;
        const struct table *table = worker->core->outbound.tables[flow.version == 6];
        if (!table)
            return;
        it->prefix = index_prefix(table, &flow);
        if (!before || before->prefix != it->prefix)
            __builtin_prefetch(it->place_bucket = index_bucket(table, it->prefix));
    } else if (it->packet.length >= SPI_LENGTH) {
        it->spi = get32(it->packet.octets);
        if (!before || before->spi != it->spi)
            __builtin_prefetch(it->sa_bucket = bucket_of(worker->core, it->spi));
    }
}

static void find_first(struct awaited *it) {
    __builtin_prefetch(it->place = it->place_bucket ? *it->place_bucket : NULL);
    __builtin_prefetch(it->sa = it->sa_bucket ? *it->sa_bucket : NULL);
}

/* Another SA may stand first in the bucket. */
static void find_second(const fast_worker *worker, struct awaited *it) {
    if (it->place && !index_is_at(it->place, it->prefix, worker->device))
        __builtin_prefetch(it->place = it->place->next);
    else if (it->sa && it->sa->inbound_spi != it->spi)
        __builtin_prefetch(it->sa = it->sa->next);
}

static void find_lines(const fast_worker *worker, struct awaited *it) {
    it->transform = NULL;
    while (it->place && !index_is_at(it->place, it->prefix, worker->device))
        it->place = it->place->next;
    while (it->sa && it->sa->inbound_spi != it->spi)
        it->sa = it->sa->next;
    if (it->place) {
        const struct sa *sa = it->place->sa;
        __builtin_prefetch(&sa->path);
        __builtin_prefetch(&sa->sequence, 1);
        it->transform = &sa->outbound;
        if (!it->place->whole)
            fetch(sa->remote_selectors, (sa->local_count + sa->remote_count) * sizeof *sa->local_selectors);
    } else if (it->sa) {
        __builtin_prefetch(&it->sa->path);
        __builtin_prefetch(&it->sa->window, 1);
        it->transform = &it->sa->inbound;
    }
    if (it->transform) {
        __builtin_prefetch(it->transform, 1);
        __builtin_prefetch(&it->transform->mac);
    }
}

static void find_context(const struct awaited *it) {
    if (!it->transform || !it->transform->cipher)
        return;
    if (it->transform->suite->gcm)
        gcm_key_fetch(it->transform->gcm);
    else
        fetch(it->transform->cipher, it->transform->suite->mac ? CIPHER_AND_MAC_OCTETS : AEAD_OCTETS);
}

/* Before each packet: one step for some of those behind it. What is not there yet wraps around, and is none of them. */
static void step(fast_worker *worker) {
    size_t at = worker->steps++;
    if (at < worker->awaited)
        find_bucket(worker, &worker->to_come[at], at ? &worker->to_come[at - 1] : NULL);
    if ((at -= APART) < worker->awaited)
        find_first(&worker->to_come[at]);
    if ((at -= APART) < worker->awaited)
        find_second(worker, &worker->to_come[at]);
    if ((at -= APART) < worker->awaited)
        find_lines(worker, &worker->to_come[at]);
    if ((at -= APART) < worker->awaited)
        find_context(&worker->to_come[at]);
}

static void expect(fast_worker *worker, const fast_octets *packets, size_t count) {
    worker->awaited = worker->steps = 0;
    if (worker->core->installed < CACHED)
        return;
    for (; worker->awaited < count && worker->awaited < FAST_EXPECTED; worker->awaited++)
        worker->to_come[worker->awaited].packet = packets[worker->awaited];
    while (worker->steps < 5 * APART)
        step(worker);
}

void fast_expect_inner(fast_worker *worker, unsigned device, const fast_octets *packets, size_t count) {
    worker->inner = true;
    worker->device = device;
    expect(worker, packets, count);
}

void fast_expect_esp(fast_worker *worker, const fast_octets *packets, size_t count) {
    worker->inner = false;
    expect(worker, packets, count);
}

/* Packets */

static int count_drop(fast_core *core, unsigned device, enum fast_reason reason) {
    atomic_fetch_add_explicit(&core->drops[device][reason], 1, memory_order_relaxed);
    return -(int)reason;
}

static int drop(fast_core *core, enum fast_reason reason) {
    return count_drop(core, FAST_DEVICES, reason);
}

/* The same of a packet of an SA. */
static int drop_of(fast_core *core, struct sa *sa, enum fast_reason reason) {
    if (reason < FAST_OF_AN_SA)
        shared_add(&sa->dropped[reason]);
    return count_drop(core, sa->device, reason);
}

/* No SA selects a packet from inside: of a later fragment it may be the ports that nobody sees. */
static int drop_unselected(fast_core *core, unsigned device, const struct flow *flow) {
    struct sa *sa = flow->later ? index_find_but_for_ports(&core->outbound, device, flow) : NULL;
    return sa ? drop_of(core, sa, FAST_FRAGMENT) : count_drop(core, device, FAST_NO_SA);
}

static bool reached(uint64_t count, uint64_t limit) {
    return limit != FAST_UNLIMITED && count >= limit;
}

static uint64_t more_of(const counter *one, const counter *other) {
    uint64_t first = counter_read(one), second = counter_read(other);
    return first > second ? first : second;
}

/* Report a limit that the last packet has reached; the hard one spends the SA. */
static void watch(fast_core *core, struct sa *sa) {
    uint64_t octets = more_of(&sa->inbound_octets, &sa->outbound_octets);
    uint64_t packets = more_of(&sa->inbound_packets, &sa->outbound_packets);
    if (reached(octets, sa->hard_octets) || reached(packets, sa->hard_packets)) {
        if (!atomic_exchange(&sa->spent, true)) {
            atomic_store(&sa->soft_reached, true);
            report(core, sa, FAST_LIFETIME_REACHED, true, NULL);
            return;
        }
    }
    if ((reached(octets, sa->soft_octets) || reached(packets, sa->soft_packets)) &&
        !atomic_exchange(&sa->soft_reached, true))
        report(core, sa, FAST_LIFETIME_REACHED, atomic_load(&sa->spent), NULL);
}

/* A SYN says no more than fits. */
static void clamp(const fast_core *core, struct sa *sa, uint8_t *packet, const struct flow *flow) {
    uint32_t maximum = core->policy.mss == FAST_MSS_OF_PATH
                           ? mss_for(limit_of(flow->version, sa->inner_mtu), flow->version)
                           : (uint32_t)core->policy.mss;
    if (mss_clamp(packet, flow, maximum))
        shared_add(&sa->mss_clamped);
}

/* Seal by an SA whose outbound lock is held: octets, or -reason. */
static int seal(fast_worker *worker, struct sa *sa, const struct flow *flow, const uint8_t *inner, uint8_t *out,
                size_t room) {
    if (sa->sequence >= sa->maximum_sequence)
        return -FAST_SEQUENCE_EXHAUSTED; /* RFC 4303 §3.3.3: the counter must not cycle */
    if (atomic_load_explicit(&sa->spent, memory_order_relaxed))
        return -FAST_LIFETIME_EXPIRED;
    if (sa->beet && flow->fragment)
        return -FAST_FRAGMENT; /* BEET mode has no place for what makes it one */
    const struct suite *suite = sa->outbound.suite;
    size_t length = sa->beet ? beet_stripped_length(inner, flow) : flow->length;
    size_t needed = transform_sealed_length(suite, length);
    if (needed > room || (!sa->outbound.keyed && !key(worker->core, &sa->outbound, true)))
        return -FAST_NO_ROOM;
    uint64_t sequence = ++sa->sequence;
    uint8_t next_header = flow->version == 4 ? IPIP : IPV6;
    if (sa->beet) {
        next_header = beet_strip(inner, flow, transform_text(suite, out));
        inner = transform_text(suite, out);
    }
    if (!transform_seal(&sa->outbound, &worker->means, sequence, inner, length, next_header, out))
        return -FAST_NO_ROOM;
    counter_add(&sa->outbound_packets, 1);
    counter_add(&sa->outbound_octets, flow->length);
    if (sa->beet)
        counter_add(&sa->outbound_saved, flow->length - length);
    if (sequence == sa->soft_sequence || sequence == sa->maximum_sequence)
        report(worker->core, sa, FAST_SEQUENCE_NUMBERS_RUNNING_OUT, sequence == sa->maximum_sequence, NULL);
    if (sa->limited)
        watch(worker->core, sa);
    return (int)needed;
}

static int seal_by(fast_worker *worker, struct sa *sa, const struct flow *flow, const uint8_t *inner, uint8_t *out,
                   size_t room, fast_where *where) {
    where->traffic_class = outer_traffic_class(inner, worker->core->policy.dscp);
    spin_lock(&sa->outbound.lock);
    int result = seal(worker, sa, flow, inner, out, room);
    spin_unlock(&sa->outbound.lock);
    if (result < 0)
        return drop_of(worker->core, sa, -result);
    where->inbound_spi = sa->inbound_spi;
    where->path = sa->path;
    where->encapsulation = sa->encapsulation;
    return result;
}

int fast_seal(fast_worker *worker, unsigned device, const uint8_t *inner, size_t length, uint8_t *out, size_t room,
              fast_where *where) {
    fast_core *core = worker->core;
    struct flow flow;
    if (worker->awaited)
        step(worker);
    if (!flow_read(&flow, inner, length))
        return count_drop(core, device, FAST_NOT_IP);
    struct sa *sa = index_find(&core->outbound, device, &flow);
    if (!sa)
        return drop_unselected(core, device, &flow);
    if (flow.length > SHORT_LENGTH && flow.length > limit_of(flow.version, sa->inner_mtu)) {
        where->inbound_spi = sa->inbound_spi;
        return -FAST_TOO_BIG;
    }
    if (core->policy.mss != FAST_ANY_MSS && is_syn(inner, &flow)) {
        if (flow.length > room)
            return drop(core, FAST_NO_ROOM);
        memmove(out, inner, flow.length);
        clamp(core, sa, out, &flow);
        inner = out;
    }
    return seal_by(worker, sa, &flow, inner, out, room, where);
}

int fast_seal_by(fast_worker *worker, uint32_t inbound_spi, const uint8_t *inner, size_t length, uint8_t *out,
                 size_t room, fast_where *where) {
    struct flow flow;
    if (!flow_read(&flow, inner, length))
        return drop(worker->core, FAST_NOT_IP);
    struct sa *sa = find(worker->core, inbound_spi);
    return sa ? seal_by(worker, sa, &flow, inner, out, room, where) : drop(worker->core, FAST_NO_SA);
}

void fast_count_long(fast_worker *worker, uint32_t inbound_spi, bool mss_clamped, bool fragmented, bool dropped) {
    struct sa *sa = find(worker->core, inbound_spi);
    if (!sa)
        return;
    if (mss_clamped)
        shared_add(&sa->mss_clamped);
    if (fragmented)
        shared_add(&sa->fragmented);
    if (dropped)
        drop_of(worker->core, sa, FAST_TOO_BIG);
}

static bool same_address(const fast_endpoint *one, const fast_endpoint *other) {
    return one->version == other->version && !memcmp(one->address, other->address, sizeof one->address);
}

static bool same_endpoint(const fast_endpoint *one, const fast_endpoint *other) {
    return one->port == other->port && same_address(one, other);
}

/* Whether a packet came from where the SA sends to, by UDP port where both have one. */
static bool in_place(const struct sa *sa, const fast_path *path) {
    return sa->encapsulation && path->remote.port ? same_endpoint(&path->remote, &sa->path.remote)
                                                  : same_address(&path->remote, &sa->path.remote);
}

/* Report another remote end point once, until the peer returns or the SA is moved. */
static void observe(fast_core *core, struct sa *sa, const fast_path *path) {
    if (in_place(sa, path)) {
        if (sa->elsewhere)
            sa->elsewhere = false;
        return;
    }
    if (sa->elsewhere && same_endpoint(&path->remote, &sa->observed.remote))
        return;
    sa->elsewhere = true;
    report(core, sa, FAST_PEER_ENDPOINT_OBSERVED, false, path);
}

/* Whether a packet came between other addresses than those that should be employed (RFC 4555 §3.12). */
static bool strays(const struct sa *sa, const fast_path *path) {
    return !in_place(sa, path) || !same_address(&path->local, &sa->path.local);
}

/* RFC 4301 §7.3: a later fragment must be discarded where ports are selected, and that is auditable. */
static enum fast_reason why_not_selected(const struct sa *sa, const struct flow *flow) {
    return flow->later && selectors_match_but_for_port(sa->remote_selectors, sa->remote_count, flow, flow->source) &&
                   selectors_match_but_for_port(sa->local_selectors, sa->local_count, flow, flow->destination)
               ? FAST_FRAGMENT
               : FAST_BAD_SELECTOR;
}

/* The inner packet of a payload of BEET mode: octets, or -reason. */
static int restore(fast_worker *worker, const struct sa *sa, uint8_t next_header, size_t length, uint8_t **inner) {
    uint8_t *packet = shelves_place(&worker->shelves, length + BEET_GROWTH);
    if (!packet)
        return -FAST_NO_ROOM;
    int result = beet_restore(next_header, *inner, length, sa->local_selectors, sa->remote_selectors, packet);
    *inner = packet;
    return result;
}

/* The inner packet in a plaintext (RFC 4303 §2.4 to §2.7), its selectors checked (RFC 4301 §5.2): octets, or -reason.
 * *inner: the plaintext, then the packet. */
static int unwrap(fast_worker *worker, struct sa *sa, uint8_t **inner, size_t length, struct flow *flow) {
    const uint8_t *plaintext = *inner;
    if (length < TRAILER_LENGTH)
        return -FAST_MALFORMED;
    size_t end = length - TRAILER_LENGTH, padding = plaintext[end];
    if (padding > end)
        return -FAST_MALFORMED;
    size_t start = end - padding;
    for (size_t at = 0; at < padding; at++) /* RFC 4303 §2.4: the receiver SHOULD inspect it */
        if (plaintext[start + at] != at + 1)
            return -FAST_MALFORMED;
    uint8_t next_header = plaintext[end + 1];
    if (next_header == NO_NEXT_HEADER)
        return -FAST_DUMMY; /* RFC 4303 §2.6: MUST be discarded without an error */
    int restored = sa->beet ? restore(worker, sa, next_header, start, inner) : (int)start;
    if (restored < 0)
        return restored;
    if (!flow_read(flow, *inner, (size_t)restored) || (!sa->beet && next_header != (flow->version == 4 ? IPIP : IPV6)))
        return -FAST_MALFORMED;
    if (!index_selects_inbound(sa, flow) &&
        (!selectors_match(sa->remote_selectors, sa->remote_count, flow, flow->source, flow->source_port) ||
         !selectors_match(sa->local_selectors, sa->local_count, flow, flow->destination, flow->destination_port)))
        return -(int)why_not_selected(sa, flow);
    if (sa->beet && flow->length > start) /* a peer may pad a pseudo header with more than it saves */
        counter_add(&sa->inbound_saved, flow->length - start);
    return (int)flow->length; /* RFC 4303 §2.7: what follows is padding against traffic analysis */
}

/* Open by an SA whose inbound lock is held, in the order of RFC 4303 §3.4: octets, or -reason. */
static int open_esp(fast_worker *worker, struct sa *sa, uint8_t *esp, size_t length, const fast_path *path,
                    uint8_t **inner, struct flow *flow) {
    fast_core *core = worker->core;
    uint64_t sequence;
    size_t plaintext_length;
    if (length < HEADER_LENGTH)
        return -FAST_MALFORMED;
    if (!window_check(&sa->window, get32(esp + SPI_LENGTH), &sequence))
        return -FAST_REPLAYED;
    if (!sa->inbound.keyed && !key(core, &sa->inbound, false))
        return -FAST_NO_ROOM;
    int reason = transform_open(&sa->inbound, &worker->means, sequence, esp, length, inner, &plaintext_length);
    if (reason)
        return -reason;
    window_advance(&sa->window, sequence);
    int result = unwrap(worker, sa, inner, plaintext_length, flow);
    if (result == -FAST_MALFORMED || result == -FAST_NO_ROOM)
        return result;
    /* A dummy has proved who sent it, and so has a packet with the wrong selectors. */
    observe(core, sa, path);
    if (result < 0)
        return result;
    counter_add(&sa->inbound_packets, 1);
    counter_add(&sa->inbound_octets, (uint64_t)result);
    if (strays(sa, path))
        counter_add(&sa->strayed_packets, 1);
    if (sa->limited)
        watch(core, sa);
    return result;
}

/* RFC 7296 §2.8: a successor that has received sends. Between two packets the worker lets control calls in. */
static void take_over_now(fast_worker *worker, uint32_t inbound_spi) {
    fast_core *core = worker->core;
    worker->awaited = 0; /* whose SAs may go */
    pthread_rwlock_unlock(&core->lock);
    pthread_rwlock_wrlock(&core->lock);
    struct sa *sa = find(core, inbound_spi);
    if (sa && sa->waits_for)
        take_over(core, sa);
    pthread_rwlock_unlock(&core->lock);
    pthread_rwlock_rdlock(&core->lock);
}

/* The packet gets the ECN that it has met outside (RFC 6040 §4.2): octets, or -FAST_CONGESTION when it cannot be told. */
static int meet_congestion(struct sa *sa, uint8_t *packet, int length, uint8_t outer) {
    uint8_t inner = traffic_class_of(packet) & ECN_MASK;
    if (ecn_is_unused(inner, outer))
        shared_add(&sa->ecn_unused);
    int ecn = ecn_decapsulated(inner, outer);
    if (ecn < 0)
        return -FAST_CONGESTION;
    if (ecn != inner) {
        set_ecn(packet, (uint8_t)ecn);
        if (ecn == CE)
            shared_add(&sa->congestion_marked);
    }
    return length;
}

/* Whether a packet has proved who sent it, dropped afterwards or not. */
static bool is_verified(int result) {
    return result >= 0 || result == -FAST_DUMMY || result == -FAST_BAD_SELECTOR || result == -FAST_FRAGMENT ||
           result == -FAST_CONGESTION;
}

int fast_open(fast_worker *worker, uint8_t *esp, size_t length, const fast_path *path, uint8_t traffic_class,
              uint8_t **inner, unsigned *device) {
    fast_core *core = worker->core;
    if (worker->awaited)
        step(worker);
    struct sa *sa = length < SPI_LENGTH ? NULL : find(core, get32(esp));
    if (!sa)
        return drop(core, FAST_UNKNOWN_SPI);
    if (atomic_load_explicit(&sa->spent, memory_order_relaxed))
        return drop_of(core, sa, FAST_LIFETIME_EXPIRED);
    if (device)
        *device = sa->device;
    spin_lock(&sa->inbound.lock);
    struct flow flow;
    int result = open_esp(worker, sa, esp, length, path, inner, &flow);
    spin_unlock(&sa->inbound.lock);
    if (result >= 0 && (traffic_class & ECN_MASK))
        result = meet_congestion(sa, *inner, result, traffic_class & ECN_MASK);
    if (result >= 0 && core->policy.mss != FAST_ANY_MSS && is_syn(*inner, &flow))
        clamp(core, sa, *inner, &flow);
    if (result < 0)
        drop_of(core, sa, -result);
    if (sa->waits_for && is_verified(result))
        take_over_now(worker, get32(esp));
    return result;
}

void fast_release(fast_worker *worker) {
    shelves_clear(&worker->shelves);
}
