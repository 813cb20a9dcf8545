/* AES-GCM by Intel's Multi-Buffer Crypto for IPsec (libIPSec_MB, Debian's libipsec-mb), where it is installed: it uses the
 * wide instructions of newer processors, and has no search for parameters before each packet as libcrypto 3.0 has.
 *
 * Looked for when the first suite asks for it, not linked: who lacks it has libcrypto's. Built without its header, or at
 * run time without the library of the same major release, or with one whose result for a known vector is another, there
 * is none. */
#ifndef FAST_GCM_H
#define FAST_GCM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GCM_NONCE = 12, GCM_ICV_MAXIMUM = 16 };

/* Round keys and what the hash needs, 1 kB in whole lines of the cache. Read by any number of threads. */
struct gcm_key;

/* The functions for one length of key. */
struct gcm;

/* For keys of 16, 24 or 32 octets; NULL: there are none. */
const struct gcm *gcm_for(size_t key_octets);

/* The library's release, for people; NULL: not there. */
const char *gcm_version(void);

/* NULL: no memory. */
struct gcm_key *gcm_key_new(const struct gcm *, const uint8_t *key);
void gcm_key_free(struct gcm_key *);

/* Ask the cache for it. */
void gcm_key_fetch(const struct gcm_key *);

/* Encrypt in place, and write an ICV of so many octets. */
void gcm_seal(const struct gcm *, const struct gcm_key *, const uint8_t nonce[GCM_NONCE], const uint8_t *data,
              size_t data_length, uint8_t *text, size_t length, uint8_t *icv, size_t icv_length);

/* Decrypt in place; false: the ICV is wrong, and what stands in text is worth nothing. */
bool gcm_open(const struct gcm *, const struct gcm_key *, const uint8_t nonce[GCM_NONCE], const uint8_t *data,
              size_t data_length, uint8_t *text, size_t length, const uint8_t *icv, size_t icv_length);

#endif
