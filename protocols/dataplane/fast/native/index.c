#include "index.h"

#include <stdlib.h>

enum { FIRST_BUCKETS = 8 };

static const uint8_t VERSIONS[] = {4, 6};

static flow_address shifted(flow_address address, uint8_t shift) {
    return shift < 128 ? address >> shift : 0;
}

/* The longest prefix around a selector's addresses, as bits to shift away. */
static uint8_t shift_of(const struct selector *selector) {
    flow_address difference = selector->start ^ selector->end;
    uint64_t high = (uint64_t)(difference >> 64), low = (uint64_t)difference;
    if (high)
        return (uint8_t)(128 - __builtin_clzll(high));
    return low ? (uint8_t)(64 - __builtin_clzll(low)) : 0;
}

/* The widest shift of a version's selectors, -1 without one. */
static int widest(const struct selector *selectors, size_t count, uint8_t version) {
    int found = -1;
    for (size_t at = 0; at < count; at++)
        if (selectors[at].version == version && shift_of(&selectors[at]) > found)
            found = shift_of(&selectors[at]);
    return found;
}

static struct table *table_of(struct table **first, bool remote, uint8_t shift) {
    for (struct table *table = *first; table; table = table->next)
        if (table->remote == remote && table->shift == shift)
            return table;
    struct table *table = calloc(1, sizeof *table);
    if (!table)
        return NULL;
    table->buckets = calloc(FIRST_BUCKETS, sizeof *table->buckets);
    if (!table->buckets) {
        free(table);
        return NULL;
    }
    table->remote = remote;
    table->shift = shift;
    table->mask = FIRST_BUCKETS - 1;
    table->next = *first;
    *first = table;
    return table;
}

static bool has_place(struct sa *sa, const struct table *table, flow_address prefix) {
    for (size_t at = 0; at < sa->place_count; at++)
        if (sa_place(sa, at)->table == table && sa_place(sa, at)->prefix == prefix)
            return true;
    return false;
}

static bool selects_any_port(const struct selector *selector) {
    return !selector->protocol && selector->start_port == 0 && selector->end_port == UINT16_MAX;
}

/* Whether a selector is all of a version's addresses but for the last shift bits, or all of them. */
static bool is_all_of(const struct selector *selector, uint8_t version, flow_address prefix, uint8_t shift) {
    flow_address ones = version == 4 ? UINT32_MAX : ~(flow_address)0;
    flow_address low = shift < 128 ? ((flow_address)1 << shift) - 1 : ones;
    flow_address start = shift < 128 ? prefix << shift : 0;
    return selector->version == version && selects_any_port(selector) && selector->start == start &&
           selector->end == (start | low);
}

static bool has_all_of(const struct selector *selectors, size_t count, uint8_t version, flow_address prefix,
                       uint8_t shift) {
    for (size_t at = 0; at < count; at++)
        if (is_all_of(&selectors[at], version, prefix, shift))
            return true;
    return false;
}

/* Whether an SA selects all that comes from or goes to a prefix. */
static bool selects_whole(const struct sa *sa, bool remote, uint8_t version, flow_address prefix, uint8_t shift) {
    uint8_t everything = version == 4 ? 32 : 128;
    return remote ? has_all_of(sa->remote_selectors, sa->remote_count, version, prefix, shift) &&
                        has_all_of(sa->local_selectors, sa->local_count, version, 0, everything)
                  : has_all_of(sa->local_selectors, sa->local_count, version, prefix, shift) &&
                        has_all_of(sa->remote_selectors, sa->remote_count, version, 0, everything);
}

static void release_empty(struct table **first) {
    while (*first) {
        struct table *table = *first;
        if (table->users) {
            first = &table->next;
            continue;
        }
        *first = table->next;
        free(table->buckets);
        free(table);
    }
}

bool index_reserve(struct outbound_index *index, struct sa *sa) {
    for (int family = 0; family < 2; family++) {
        int local = widest(sa->local_selectors, sa->local_count, VERSIONS[family]);
        int remote = widest(sa->remote_selectors, sa->remote_count, VERSIONS[family]);
        if (local < 0 || remote < 0)
            continue;
        bool by_remote = remote <= local;
        const struct selector *selectors = by_remote ? sa->remote_selectors : sa->local_selectors;
        size_t count = by_remote ? sa->remote_count : sa->local_count;
        for (size_t at = 0; at < count; at++) {
            if (selectors[at].version != VERSIONS[family])
                continue;
            uint8_t shift = shift_of(&selectors[at]);
            struct table *table = table_of(&index->tables[family], by_remote, shift);
            if (!table) {
                index_release(index, sa);
                return false;
            }
            flow_address prefix = shifted(selectors[at].start, shift);
            if (has_place(sa, table, prefix))
                continue;
            table->users++;
            *sa_place(sa, sa->place_count++) = (struct place){
                .sa = sa,
                .table = table,
                .version = VERSIONS[family],
                .whole = selects_whole(sa, by_remote, VERSIONS[family], prefix, shift),
                .prefix = prefix,
            };
        }
    }
    return true;
}

void index_release(struct outbound_index *index, struct sa *sa) {
    for (size_t at = 0; at < sa->place_count; at++)
        sa_place(sa, at)->table->users--;
    sa->place_count = 0;
    for (int family = 0; family < 2; family++)
        release_empty(&index->tables[family]);
}

/* Twice the buckets, each chain in its order; without the memory the chains grow instead. */
static void grow(struct table *table) {
    size_t old = table->mask + 1;
    struct place **buckets = calloc(2 * old, sizeof *buckets);
    if (!buckets)
        return;
    for (size_t at = 0; at < old; at++) {
        struct place **ends[2] = {&buckets[at], &buckets[at + old]};
        for (struct place *place = table->buckets[at]; place; place = place->next) {
            int half = (hash_address(place->prefix) & old) != 0;
            *ends[half] = place;
            ends[half] = &place->next;
        }
        *ends[0] = *ends[1] = NULL;
    }
    free(table->buckets);
    table->buckets = buckets;
    table->mask = 2 * old - 1;
}

void index_add(struct outbound_index *index, struct sa *sa) {
    sa->order = ++index->added;
    for (size_t at = 0; at < sa->place_count; at++) {
        struct place *place = sa_place(sa, at);
        struct table *table = place->table;
        if (2 * table->count++ > table->mask)
            grow(table);
        struct place **bucket = index_bucket(table, place->prefix);
        place->next = *bucket;
        *bucket = place;
    }
}

void index_discard(struct sa *sa) {
    if (!sa->order)
        return;
    sa->order = 0;
    for (size_t which = 0; which < sa->place_count; which++) {
        struct place *place = sa_place(sa, which), **at = index_bucket(place->table, place->prefix);
        while (*at != place)
            at = &(*at)->next;
        *at = place->next;
        place->table->count--;
    }
}

static inline struct sa *newest(const struct outbound_index *index, const struct flow *flow,
                                bool (*selects)(const struct sa *, const struct flow *)) {
    struct sa *found = NULL;
    for (const struct table *table = index->tables[flow->version == 6]; table; table = table->next) {
        flow_address prefix = index_prefix(table, flow);
        for (const struct place *place = *index_bucket(table, prefix); place; place = place->next) {
            if (place->prefix != prefix || !(place->whole || selects(place->sa, flow)))
                continue;
            if (!found || place->sa->order > found->order)
                found = place->sa;
            break;
        }
    }
    return found;
}

struct sa *index_find(const struct outbound_index *index, const struct flow *flow) {
    return newest(index, flow, sa_selects);
}

struct sa *index_find_but_for_ports(const struct outbound_index *index, const struct flow *flow) {
    return newest(index, flow, sa_selects_but_for_ports);
}
