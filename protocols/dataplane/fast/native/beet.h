/* BEET mode (draft-nikander-esp-beet-mode, RFC 7402 appendix B) as protocols/esp/beet.py: inner headers left out, and made
 * again. Its packets are longer than the ESP packets that they come in, so they lie in memory of their own.
 */
#ifndef FAST_BEET_H
#define FAST_BEET_H

#include "flow.h"

/* Octets of the ESP payload of a packet that is no fragment. */
size_t beet_stripped_length(const uint8_t *packet, const struct flow *flow);

/* Write them, and return the next header; payload may overlap the packet. */
uint8_t beet_strip(const uint8_t *packet, const struct flow *flow, uint8_t *payload);

/* The most by which a packet is longer than its payload. */
#define BEET_GROWTH 40

/* Write the packet from the remote host to the local one, of length + BEET_GROWTH octets at most: octets, or
 * -FAST_MALFORMED with an impossible pseudo header. The hosts are those of selectors. */
int beet_restore(uint8_t next_header, const uint8_t *payload, size_t length, const struct selector *local,
                 const struct selector *remote, uint8_t *packet);

/* Packets that stay where they are until all are put away. */
struct shelf;
struct shelves {
    struct shelf *first, *present;
};

/* Octets for a packet and what follows it, at most 65535 + BEET_GROWTH; NULL: no memory. */
uint8_t *shelves_place(struct shelves *, size_t octets);
void shelves_clear(struct shelves *);
void shelves_free(struct shelves *);

#endif
