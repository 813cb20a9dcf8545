/* One child SA at work, and where it stands in the core's tables. */
#ifndef FAST_SA_H
#define FAST_SA_H

#include "flow.h"
#include "transform.h"
#include "window.h"

/* A counter that one thread at a time writes, under a lock, and any may read. */
typedef atomic_uint_fast64_t counter;

static inline uint64_t counter_read(const counter *counted) {
    return atomic_load_explicit(counted, memory_order_relaxed);
}

static inline void counter_add(counter *counted, uint64_t more) {
    atomic_store_explicit(counted, counter_read(counted) + more, memory_order_relaxed);
}

/* A counter that any thread writes: of what is rare. */
typedef atomic_uint_fast64_t shared_counter;

static inline void shared_add(shared_counter *counted) {
    atomic_fetch_add_explicit(counted, 1, memory_order_relaxed);
}

/* A kind of event of one SA: in the core's queue at most once. */
struct waiting_event {
    struct waiting_event *next, *previous;
    uint8_t kind;
    bool queued, last;
};

struct sa;
struct table;

/* An SA under one prefix of a table. */
struct place {
    struct place *next; /* of its bucket, older */
    struct sa *sa;
    struct table *table;
    uint8_t version;
    bool whole; /* the SA selects all that the prefix does */
    flow_address prefix;
};

#define LINE 64 /* octets of the cache */

/* What a packet needs is in four lines: place, path, sequence, outbound; or place, path, window, inbound. */
struct sa {
    /* read by both directions, written by control calls alone */
    _Alignas(LINE) struct place place; /* the first */
    struct sa *next;                   /* of its bucket by SPI */
    uint32_t inbound_spi;
    uint32_t inner_mtu;

    _Alignas(LINE) fast_path path;
    struct sa *waits_for; /* sends when that one is retired, or when this one has received */
    uint64_t order;       /* 0: does not send */
    bool encapsulation, limited, beet;
    bool elsewhere; /* by whoever opens */
    uint8_t device; /* what its packets are for */
    atomic_bool spent, soft_reached;

    _Alignas(LINE) uint64_t sequence;
    uint64_t maximum_sequence, soft_sequence;
    counter outbound_packets, outbound_octets, outbound_saved;
    _Alignas(LINE) struct transform outbound;

    _Alignas(LINE) struct window window;
    counter inbound_packets, inbound_octets;
    _Alignas(LINE) struct transform inbound;
    counter strayed_packets, inbound_saved;

    struct selector *local_selectors, *remote_selectors;
    size_t local_count, remote_count;
    uint64_t soft_octets, hard_octets, soft_packets, hard_packets;
    struct place *more_places; /* after the first */
    size_t place_count;
    struct sa *successors, **successors_end; /* those that wait for this one, oldest first */
    struct sa *next_successor;
    struct waiting_event events[FAST_EVENT_KINDS];
    fast_path observed;                    /* where the peer was last seen, while elsewhere */
    shared_counter dropped[FAST_OF_AN_SA]; /* by reason */
    shared_counter fragmented, mss_clamped, congestion_marked, ecn_unused;
};

_Static_assert(offsetof(struct sa, path) == LINE && offsetof(struct sa, sequence) == 2 * LINE &&
                   offsetof(struct sa, outbound) == 3 * LINE && offsetof(struct transform, mac) <= LINE &&
                   offsetof(struct sa, inbound) - offsetof(struct sa, window) == LINE,
               "what a packet needs takes more lines");

static inline struct place *sa_place(struct sa *sa, size_t at) {
    return at ? &sa->more_places[at - 1] : &sa->place;
}

/* A new SA with its selectors and window in one piece of memory; places: as many as it may need. NULL: no memory. */
struct sa *sa_new(const fast_spec *, const struct suite *inbound, const struct suite *outbound);
void sa_free(struct sa *);

/* Whether an outbound packet is this SA's: source local, destination remote. */
static inline bool sa_selects(const struct sa *sa, const struct flow *flow) {
    return selectors_match(sa->remote_selectors, sa->remote_count, flow, flow->destination, flow->destination_port) &&
           selectors_match(sa->local_selectors, sa->local_count, flow, flow->source, flow->source_port);
}

/* Whether it would be if it showed the right ports. */
static inline bool sa_selects_but_for_ports(const struct sa *sa, const struct flow *flow) {
    return selectors_match_but_for_port(sa->remote_selectors, sa->remote_count, flow, flow->destination) &&
           selectors_match_but_for_port(sa->local_selectors, sa->local_count, flow, flow->source);
}

#endif
