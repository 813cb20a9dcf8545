/* Which SA sends a packet, without looking at every SA.
 *
 * Each SA stands under the prefixes of its narrower side (a gateway's SAs under the peers' addresses, a UE's under its
 * own), in one table per side and prefix length; a packet asks each table once. A range that is no prefix stands under
 * the prefix around it: the selectors themselves decide.
 */
#ifndef FAST_INDEX_H
#define FAST_INDEX_H

#include "sa.h"

struct table {
    struct table *next;
    bool remote;
    uint8_t shift;
    size_t users; /* places of installed SAs, sending or not */
    size_t count, mask;
    struct place **buckets;
};

struct outbound_index {
    struct table *tables[2]; /* IPv4, IPv6 */
    uint64_t added;
};

static inline uint64_t hash_address(flow_address address) {
    uint64_t mixed = (uint64_t)address ^ (uint64_t)(address >> 64) * 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93u;
    return mixed ^ mixed >> 32;
}

/* Before the first index_add: the tables that sa needs; false: no memory. index_release when it is removed. */
bool index_reserve(struct outbound_index *, struct sa *);
void index_release(struct outbound_index *, struct sa *);

/* Put sa in as the newest; take it out if it is in. */
void index_add(struct outbound_index *, struct sa *);
void index_discard(struct sa *);

static inline flow_address index_prefix(const struct table *table, const struct flow *flow) {
    flow_address address = table->remote ? flow->destination : flow->source;
    return table->shift < 128 ? address >> table->shift : 0;
}

static inline struct place **index_bucket(const struct table *table, flow_address prefix) {
    return &table->buckets[hash_address(prefix) & table->mask];
}

/* Whether an inbound packet is surely that SA's, by its first place alone: source remote, destination local. */
static inline bool index_selects_inbound(const struct sa *sa, const struct flow *flow) {
    const struct place *place = &sa->place;
    if (!sa->place.whole || place->version != flow->version)
        return false;
    flow_address address = place->table->remote ? flow->source : flow->destination;
    return (place->table->shift < 128 ? address >> place->table->shift : 0) == place->prefix;
}

/* The newest SA that selects a packet, or NULL. */
struct sa *index_find(const struct outbound_index *, const struct flow *);

/* The newest SA that would select it if it showed the right ports, or NULL. */
struct sa *index_find_but_for_ports(const struct outbound_index *, const struct flow *);

#endif
