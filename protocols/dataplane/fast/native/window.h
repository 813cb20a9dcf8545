/* The anti-replay window (RFC 4303 §3.4.3, with ESN Appendix A2) on a ring of words (RFC 6479). */
#ifndef FAST_WINDOW_H
#define FAST_WINDOW_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define WINDOW_FEW 4u /* words in the SA's own line of the cache */

struct window {
    uint64_t top;  /* the highest sequence number accepted so far */
    uint32_t size; /* 0: off */
    uint16_t mask;
    bool esn;
    union {
        uint64_t few[WINDOW_FEW];
        uint64_t *many;
    };
};

/* Bit s % 64 of word s / 64 % (mask + 1) stands for sequence number s. */
static inline uint64_t *window_ring(struct window *window) {
    return window->mask < WINDOW_FEW ? window->few : window->many;
}

/* Words for a window of size packets: a power of two that holds it wherever it begins. */
static inline uint32_t window_words(uint32_t size) {
    uint32_t words = 1;
    while (size && words * 64 < size + 63)
        words *= 2;
    return words;
}

/* The high 32 bits from where the window stands (RFC 4303 Appendix A2.1); false: before the first or after the last. */
static inline bool window_extend(const struct window *window, uint32_t low, uint64_t *sequence) {
    uint64_t high = window->top >> 32;
    uint32_t top_low = (uint32_t)window->top;
    if (top_low >= window->size - 1) { /* Case A: the window lies within one subspace */
        if (low < top_low - window->size + 1) {
            if (high == UINT32_MAX)
                return false;
            high++;
        }
    } else if (low >= top_low - window->size + 1) { /* Case B: it reaches back into the one before */
        if (!high)
            return false;
        high--;
    }
    *sequence = high << 32 | low;
    return true;
}

/* The full sequence number of a packet that shows low; false: seen before, or too old. Before the ICV. */
static inline bool window_check(struct window *window, uint32_t low, uint64_t *sequence) {
    *sequence = low;
    if (!window->size)
        return true;
    if ((window->esn && !window_extend(window, low, sequence)) || !*sequence)
        return false;
    if (*sequence > window->top)
        return true;
    if (window->top - *sequence >= window->size)
        return false;
    return !(window_ring(window)[*sequence >> 6 & window->mask] >> (*sequence & 63) & 1);
}

/* Note a packet whose ICV was right: only such a one moves the window. */
static inline void window_advance(struct window *window, uint64_t sequence) {
    uint64_t *ring = window_ring(window);
    if (sequence > window->top) {
        uint64_t from = window->top >> 6, to = sequence >> 6;
        if (to - from > window->mask)
            memset(ring, 0, (window->mask + 1u) * sizeof *ring);
        else
            while (from < to)
                ring[++from & window->mask] = 0;
        window->top = sequence;
    }
    ring[sequence >> 6 & window->mask] |= (uint64_t)1 << (sequence & 63);
}

#endif
