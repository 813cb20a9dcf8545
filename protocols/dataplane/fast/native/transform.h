/* ESP packets (RFC 4303 §2, §3.3.2, §3.4.4) as protocols/esp/packet.py makes them, by libcrypto's EVP and gcm.h's AES-GCM.
 *
 * AES-CBC (RFC 3602), 3DES (RFC 2451), AES-CTR (RFC 3686) and NULL (RFC 2410) with a separate MAC; AES-GCM (RFC 4106),
 * AES-CCM (RFC 4309) and ChaCha20-Poly1305 (RFC 7634). A transform is one direction of an SA; whoever uses it holds its
 * lock. Its contexts are kept, but for libcrypto's of AEAD suites once there are very many: a context is 19 lines of the
 * cache, and beside the kernel's work to fetch them takes longer than to key one of the worker's for each packet anew.
 */
#ifndef FAST_TRANSFORM_H
#define FAST_TRANSFORM_H

#include <openssl/evp.h>

#include "core.h"
#include "gcm.h"
#include "lock.h"

enum { HEADER_LENGTH = 8, TRAILER_LENGTH = 2, BLOCK_MAXIMUM = 16, ICV_MAXIMUM = 32, KEY_MAXIMUM = 36, MAC_KEY_MAXIMUM = 64 };

enum transform_kind { KIND_GCM, KIND_CCM, KIND_CHACHA, KIND_CBC, KIND_CTR, KIND_NULL };

/* An algorithm that libcrypto has, resolved for one key length. */
struct suite {
    EVP_CIPHER *cipher; /* NULL with NULL */
    EVP_CIPHER *method; /* of AEAD, in its place, where that is faster; else NULL */
    const struct gcm *gcm; /* of AES-GCM, in place of both where there is one; else NULL */
    EVP_MAC *mac;       /* NULL with AEAD and AES-XCBC */
    const char *digest; /* of HMAC */
    EVP_CIPHER *block;  /* AES-128-CBC of AES-XCBC */
    enum transform_kind kind;
    uint8_t key_length, salt_length, iv_length, icv_length, alignment, mac_key_length;
    bool esn;
    uint16_t encryption, integrity;
    struct suite *next;
};

/* Random octets drawn in advance: the system's generator costs more than a short packet's cipher. */
struct random_pool {
    size_t left;
    uint8_t octets[4096];
};

struct transform;

/* A context of a worker and whose key it has. */
struct lent_context {
    const struct transform *to;
    const struct suite *suite;
    EVP_CIPHER_CTX *cipher;
};

enum { LENT_CONTEXTS = 32 }; /* by SPI: several SAs in turn are keyed once */

/* What a worker brings along. */
struct means {
    struct random_pool random;
    struct lent_context sealing[LENT_CONTEXTS], opening[LENT_CONTEXTS];
};

/* When a transform goes, with its keys; and all of it. */
void means_forget(struct means *, const struct transform *);
void means_free(struct means *);

struct transform {
    /* one line of the cache, which is enough with AEAD */
    const struct suite *suite;
    union {
        EVP_CIPHER_CTX *cipher; /* NULL with AEAD: borrowed */
        struct gcm_key *gcm;    /* where the suite has it */
    };
    uint8_t key[KEY_MAXIMUM]; /* the salt at its end */
    uint32_t spi;
    bool keyed;
    struct spinlock lock;

    EVP_MAC_CTX *mac;
    EVP_CIPHER_CTX *xcbc;
    uint8_t mac_key[MAC_KEY_MAXIMUM];
};

/* What suites there are for IANA's numbers and a key length; NULL when libcrypto lacks it or memory has run out.
 * libcrypto_alone: without gcm.h's. */
struct suite *suite_new(uint16_t encryption, uint16_t integrity, size_t key_length, bool esn, bool libcrypto_alone);
void suite_free(struct suite *);

/* Octets of the ESP packet around a payload. */
size_t transform_sealed_length(const struct suite *, size_t length);

/* Where the payload stands in it. */
static inline uint8_t *transform_text(const struct suite *suite, uint8_t *esp) {
    return esp + HEADER_LENGTH + suite->iv_length;
}

/* Make the contexts, or borrow from now on what may be borrowed; false when memory has run out. */
bool transform_key(struct transform *, bool sealing, bool borrows);
void transform_free(struct transform *);

/* Build a packet of transform_sealed_length octets; false when libcrypto failed. payload may overlap out. */
bool transform_seal(struct transform *, struct means *, uint64_t sequence, const uint8_t *payload, size_t length,
                    uint8_t next_header, uint8_t *out);

/* Verify and decrypt in place: 0 and the plaintext with its trailer, FAST_MALFORMED or FAST_BAD_ICV. */
int transform_open(struct transform *, struct means *, uint64_t sequence, uint8_t *esp, size_t length,
                   uint8_t **plaintext, size_t *plaintext_length);

#endif
