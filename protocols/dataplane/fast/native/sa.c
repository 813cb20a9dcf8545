#include "sa.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

static void read_selectors(struct selector *to, const fast_selector *from, size_t count) {
    for (size_t at = 0; at < count; at++)
        to[at] = (struct selector){
            .start = get_address(from[at].start, from[at].version),
            .end = get_address(from[at].end, from[at].version),
            .start_port = from[at].start_port,
            .end_port = from[at].end_port,
            .version = from[at].version,
            .protocol = from[at].protocol,
        };
}

static void read_keys(struct transform *transform, const struct suite *suite, uint32_t spi, fast_octets key,
                      fast_octets mac_key) {
    transform->suite = suite;
    transform->spi = spi;
    memcpy(transform->key, key.octets, key.length);
    if (mac_key.length)
        memcpy(transform->mac_key, mac_key.octets, mac_key.length);
}

struct sa *sa_new(const fast_spec *spec, const struct suite *inbound, const struct suite *outbound) {
    size_t selectors = spec->local_count + spec->remote_count;
    size_t words = window_words(spec->replay_window);
    size_t places = selectors - 1, more_words = words > WINDOW_FEW ? words : 0;
    size_t size = sizeof(struct sa) + selectors * sizeof(struct selector) + places * sizeof(struct place) +
                  more_words * sizeof(uint64_t);
    struct sa *sa = aligned_alloc(_Alignof(struct sa), (size + _Alignof(struct sa) - 1) & -_Alignof(struct sa));
    if (!sa)
        return NULL;
    memset(sa, 0, size);
    sa->remote_selectors = (struct selector *)(sa + 1);
    sa->local_selectors = sa->remote_selectors + spec->remote_count;
    sa->more_places = (struct place *)(sa->local_selectors + spec->local_count);
    if (more_words)
        sa->window.many = (uint64_t *)(sa->more_places + places);
    sa->window.mask = (uint16_t)(words - 1);
    sa->window.size = spec->replay_window;
    sa->window.esn = spec->esn;
    sa->inbound_spi = spec->inbound_spi;
    sa->local_count = spec->local_count;
    sa->remote_count = spec->remote_count;
    read_selectors(sa->local_selectors, spec->local_selectors, spec->local_count);
    read_selectors(sa->remote_selectors, spec->remote_selectors, spec->remote_count);
    sa->path = spec->path;
    sa->encapsulation = spec->encapsulation;
    sa->beet = spec->beet;
    sa->inner_mtu = FAST_INNER_MTU_MAXIMUM;
    sa->soft_octets = spec->soft_octets;
    sa->hard_octets = spec->hard_octets;
    sa->soft_packets = spec->soft_packets;
    sa->hard_packets = spec->hard_packets;
    sa->limited = spec->soft_octets != FAST_UNLIMITED || spec->hard_octets != FAST_UNLIMITED ||
                  spec->soft_packets != FAST_UNLIMITED || spec->hard_packets != FAST_UNLIMITED;
    sa->maximum_sequence = spec->esn ? UINT64_MAX : UINT32_MAX;
    sa->soft_sequence = sa->maximum_sequence - (sa->maximum_sequence >> 3);
    sa->successors_end = &sa->successors;
    for (uint8_t kind = 0; kind < FAST_EVENT_KINDS; kind++)
        sa->events[kind].kind = kind;
    read_keys(&sa->inbound, inbound, spec->inbound_spi, spec->inbound_encryption_key, spec->inbound_integrity_key);
    read_keys(&sa->outbound, outbound, spec->outbound_spi, spec->outbound_encryption_key, spec->outbound_integrity_key);
    return sa;
}

void sa_free(struct sa *sa) {
    transform_free(&sa->inbound);
    transform_free(&sa->outbound);
    free(sa);
}
