#define OPENSSL_SUPPRESS_DEPRECATED /* EVP_CIPHER_meth_dup */

#include "transform.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <string.h>

#include "flow.h"

struct encryption_row {
    uint16_t identifier; /* IANA, transform type 1 */
    enum transform_kind kind;
    const char *names[3]; /* for keys of 16, 24, 32 octets */
    uint8_t salt_length, iv_length, block_length, icv_length;
};

struct integrity_row {
    uint16_t identifier; /* IANA, transform type 3 */
    const char *mac;     /* NULL: AES-XCBC */
    const char *digest;
    uint8_t key_length, icv_length;
};

#define AES_NAMES(mode) {"AES-128-" mode, "AES-192-" mode, "AES-256-" mode}

static const struct encryption_row ENCRYPTION[] = {
    {12, KIND_CBC, AES_NAMES("CBC"), 0, 16, 16, 0},
    {13, KIND_CTR, AES_NAMES("CTR"), 4, 8, 1, 0},
    {14, KIND_CCM, AES_NAMES("CCM"), 3, 8, 1, 8},
    {15, KIND_CCM, AES_NAMES("CCM"), 3, 8, 1, 12},
    {16, KIND_CCM, AES_NAMES("CCM"), 3, 8, 1, 16},
    {18, KIND_GCM, AES_NAMES("GCM"), 4, 8, 1, 8},
    {19, KIND_GCM, AES_NAMES("GCM"), 4, 8, 1, 12},
    {20, KIND_GCM, AES_NAMES("GCM"), 4, 8, 1, 16},
    {28, KIND_CHACHA, {NULL, NULL, "ChaCha20-Poly1305"}, 4, 8, 1, 16},
    {3, KIND_CBC, {NULL, "DES-EDE3-CBC", NULL}, 0, 8, 8, 0},
    {11, KIND_NULL, {NULL, NULL, NULL}, 0, 0, 1, 0},
};

static const struct integrity_row INTEGRITY[] = {
    {1, "HMAC", "MD5", 16, 12},       {2, "HMAC", "SHA1", 20, 12},      {12, "HMAC", "SHA2-256", 32, 16},
    {13, "HMAC", "SHA2-384", 48, 24}, {14, "HMAC", "SHA2-512", 64, 32}, {5, NULL, NULL, 16, 12},
    {8, "CMAC", NULL, 16, 12},
};

enum { ALIGNMENT = 4 }; /* RFC 4303 §2.4: pad length and next header end on a 32-bit word */

/* OpenSSL 3.0 looks for its providers' parameters by comparing names, for each packet as long as it takes to encrypt 500
 * octets. A copy of the method that its own libcrypto has had since before providers does without. Later releases search
 * less, and their providers are the faster ones. NULL: the provider's does. */
static EVP_CIPHER *without_parameters(const char *name) {
#ifndef OPENSSL_NO_DEPRECATED_3_0
    const EVP_CIPHER *method = EVP_get_cipherbyname(name);
    if (method && OPENSSL_version_major() == 3 && OPENSSL_version_minor() == 0)
        return EVP_CIPHER_meth_dup(method);
#endif
    return NULL;
}

static bool resolve_encryption(struct suite *suite, size_t key_length, bool libcrypto_alone) {
    for (size_t at = 0; at < sizeof ENCRYPTION / sizeof *ENCRYPTION; at++) {
        const struct encryption_row *row = &ENCRYPTION[at];
        if (row->identifier != suite->encryption)
            continue;
        suite->kind = row->kind;
        suite->salt_length = row->salt_length;
        suite->iv_length = row->iv_length;
        suite->icv_length = row->icv_length;
        suite->alignment = row->block_length > ALIGNMENT ? row->block_length : ALIGNMENT;
        suite->key_length = (uint8_t)key_length;
        if (row->kind == KIND_NULL)
            return !key_length;
        size_t bare = key_length - row->salt_length;
        if (key_length > KEY_MAXIMUM || (bare != 16 && bare != 24 && bare != 32) || !row->names[bare / 8 - 2])
            return false;
        suite->cipher = EVP_CIPHER_fetch(NULL, row->names[bare / 8 - 2], NULL);
        if (suite->cipher && row->kind <= KIND_CHACHA)
            suite->method = without_parameters(row->names[bare / 8 - 2]);
        if (row->kind == KIND_GCM && !libcrypto_alone)
            suite->gcm = gcm_for(bare);
        return suite->cipher != NULL;
    }
    return false;
}

static bool resolve_integrity(struct suite *suite) {
    if (suite->icv_length)
        return !suite->integrity;
    for (size_t at = 0; at < sizeof INTEGRITY / sizeof *INTEGRITY; at++) {
        const struct integrity_row *row = &INTEGRITY[at];
        if (row->identifier != suite->integrity)
            continue;
        suite->icv_length = row->icv_length;
        suite->mac_key_length = row->key_length;
        suite->digest = row->digest;
        if (row->mac)
            return (suite->mac = EVP_MAC_fetch(NULL, row->mac, NULL)) != NULL;
        return (suite->block = EVP_CIPHER_fetch(NULL, "AES-128-CBC", NULL)) != NULL;
    }
    return false;
}

struct suite *suite_new(uint16_t encryption, uint16_t integrity, size_t key_length, bool esn, bool libcrypto_alone) {
    struct suite *suite = OPENSSL_zalloc(sizeof *suite);
    if (!suite)
        return NULL;
    suite->encryption = encryption;
    suite->integrity = integrity;
    suite->esn = esn;
    if (resolve_encryption(suite, key_length, libcrypto_alone) && resolve_integrity(suite))
        return suite;
    suite_free(suite);
    return NULL;
}

void suite_free(struct suite *suite) {
#ifndef OPENSSL_NO_DEPRECATED_3_0
    EVP_CIPHER_meth_free(suite->method);
#endif
    EVP_CIPHER_free(suite->cipher);
    EVP_CIPHER_free(suite->block);
    EVP_MAC_free(suite->mac);
    OPENSSL_free(suite);
}

static size_t pad_length(const struct suite *suite, size_t length) {
    return (0 - (length + TRAILER_LENGTH)) & (suite->alignment - 1u);
}

size_t transform_sealed_length(const struct suite *suite, size_t length) {
    return HEADER_LENGTH + suite->iv_length + length + pad_length(suite, length) + TRAILER_LENGTH + suite->icv_length;
}

static EVP_CIPHER_CTX *new_cipher(const EVP_CIPHER *cipher, const uint8_t *key, bool sealing) {
    static const uint8_t zero[BLOCK_MAXIMUM];
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context && EVP_CipherInit_ex2(context, cipher, key, zero, sealing, NULL) &&
        EVP_CIPHER_CTX_set_padding(context, 0))
        return context;
    EVP_CIPHER_CTX_free(context);
    return NULL;
}

/* Without a key. */
static EVP_CIPHER_CTX *new_aead(const struct suite *suite, bool sealing) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    const EVP_CIPHER *cipher = suite->method ? suite->method : suite->cipher;
    if (context && EVP_CipherInit_ex2(context, cipher, NULL, NULL, sealing, NULL) &&
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, suite->salt_length + suite->iv_length, NULL) > 0 &&
        (suite->kind != KIND_CCM || EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, suite->icv_length, NULL) > 0))
        return context;
    EVP_CIPHER_CTX_free(context);
    return NULL;
}

static EVP_MAC_CTX *new_mac(const struct suite *suite, const uint8_t *key) {
    OSSL_PARAM parameters[] = {OSSL_PARAM_END, OSSL_PARAM_END};
    if (suite->digest)
        parameters[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)suite->digest, 0);
    else
        parameters[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, (char *)"AES-128-CBC", 0);
    EVP_MAC_CTX *context = EVP_MAC_CTX_new(suite->mac);
    if (context && EVP_MAC_init(context, key, suite->mac_key_length, parameters))
        return context;
    EVP_MAC_CTX_free(context);
    return NULL;
}

/* RFC 3566 §4 step 1: K1, K2, K3 are the encryptions of 0x01…, 0x02…, 0x03…; K2 and K3 take the place of the key. */
static EVP_CIPHER_CTX *new_xcbc(const struct suite *suite, uint8_t mac_key[MAC_KEY_MAXIMUM]) {
    uint8_t derived[3][BLOCK_MAXIMUM];
    bool done = true;
    for (int number = 0; done && number < 3; number++) {
        EVP_CIPHER_CTX *derive = new_cipher(suite->block, mac_key, true);
        int written;
        memset(derived[number], number + 1, BLOCK_MAXIMUM);
        done = derive && EVP_CipherUpdate(derive, derived[number], &written, derived[number], BLOCK_MAXIMUM);
        EVP_CIPHER_CTX_free(derive);
    }
    EVP_CIPHER_CTX *context = done ? new_cipher(suite->block, derived[0], true) : NULL;
    if (context)
        memcpy(mac_key, derived[1], 2 * BLOCK_MAXIMUM);
    OPENSSL_cleanse(derived, sizeof derived);
    return context;
}

bool transform_key(struct transform *transform, bool sealing, bool borrows) {
    const struct suite *suite = transform->suite;
    if (suite->gcm)
        return transform->keyed = (transform->gcm = gcm_key_new(suite->gcm, transform->key)) != NULL;
    if (suite->kind <= KIND_CHACHA) {
        EVP_CIPHER_CTX *context = borrows ? NULL : new_aead(suite, sealing);
        if (context && !EVP_CipherInit_ex2(context, NULL, transform->key, NULL, sealing, NULL)) {
            EVP_CIPHER_CTX_free(context);
            context = NULL;
        }
        transform->cipher = context;
        return transform->keyed = context || borrows;
    }
    if (suite->cipher && !transform->cipher)
        transform->cipher = new_cipher(suite->cipher, transform->key, sealing);
    if (suite->mac && !transform->mac)
        transform->mac = new_mac(suite, transform->mac_key);
    if (suite->block && !transform->xcbc)
        transform->xcbc = new_xcbc(suite, transform->mac_key);
    transform->keyed = (!suite->cipher || transform->cipher) && (!suite->mac || transform->mac) &&
                       (!suite->block || transform->xcbc);
    return transform->keyed;
}

void transform_free(struct transform *transform) {
    if (transform->suite->gcm)
        gcm_key_free(transform->gcm);
    else
        EVP_CIPHER_CTX_free(transform->cipher);
    EVP_CIPHER_CTX_free(transform->xcbc);
    EVP_MAC_CTX_free(transform->mac);
    OPENSSL_cleanse(transform->key, sizeof transform->key);
    OPENSSL_cleanse(transform->mac_key, sizeof transform->mac_key);
}

static void take_back(struct lent_context *lent) {
    EVP_CIPHER_CTX_free(lent->cipher);
    *lent = (struct lent_context){NULL, NULL, NULL};
}

static struct lent_context *lent_to(struct means *means, const struct transform *transform, bool sealing) {
    return &(sealing ? means->sealing : means->opening)[transform->spi % LENT_CONTEXTS];
}

void means_forget(struct means *means, const struct transform *transform) {
    for (int sealing = 0; sealing < 2; sealing++)
        if (lent_to(means, transform, sealing)->to == transform)
            take_back(lent_to(means, transform, sealing));
}

void means_free(struct means *means) {
    for (int at = 0; at < LENT_CONTEXTS; at++) {
        take_back(&means->sealing[at]);
        take_back(&means->opening[at]);
    }
    OPENSSL_cleanse(&means->random, sizeof means->random);
}

/* A context for a transform; *key: what it has to be given, NULL when it has it. NULL: no memory. */
static EVP_CIPHER_CTX *borrow(struct means *means, const struct transform *transform, bool sealing,
                              const uint8_t **key) {
    struct lent_context *lent = lent_to(means, transform, sealing);
    *key = NULL;
    if (lent->to == transform)
        return lent->cipher;
    if (lent->suite != transform->suite) {
        take_back(lent);
        if (!(lent->cipher = new_aead(transform->suite, sealing)))
            return NULL;
        lent->suite = transform->suite;
    }
    lent->to = transform;
    *key = transform->key;
    return lent->cipher;
}

static bool draw(struct random_pool *pool, uint8_t *out, size_t length) {
    if (pool->left < length) {
        if (RAND_bytes(pool->octets, sizeof pool->octets) != 1)
            return false;
        pool->left = sizeof pool->octets;
    }
    pool->left -= length;
    memcpy(out, pool->octets + pool->left, length);
    OPENSSL_cleanse(pool->octets + pool->left, length);
    return true;
}

/* AES-XCBC-MAC (RFC 3566 §4): CBC under K1, the last block masked with K2 (whole) or K3 (padded). */
static bool xcbc(const struct transform *transform, const uint8_t *data, size_t length, uint8_t mac[BLOCK_MAXIMUM]) {
    static const uint8_t zero[BLOCK_MAXIMUM];
    uint8_t spent[1024], last[BLOCK_MAXIMUM] = {0};
    int written;
    if (!EVP_EncryptInit_ex2(transform->xcbc, NULL, NULL, zero, NULL))
        return false;
    size_t before = length ? (length - 1) / BLOCK_MAXIMUM * BLOCK_MAXIMUM : 0;
    for (size_t done = 0; done < before; done += (size_t)written) {
        size_t piece = before - done < sizeof spent ? before - done : sizeof spent;
        if (!EVP_EncryptUpdate(transform->xcbc, spent, &written, data + done, (int)piece) || written != (int)piece)
            return false;
    }
    size_t rest = length - before;
    memcpy(last, data + before, rest);
    const uint8_t *mask = transform->mac_key;
    if (rest < BLOCK_MAXIMUM) {
        last[rest] = 0x80;
        mask += BLOCK_MAXIMUM;
    }
    for (int at = 0; at < BLOCK_MAXIMUM; at++)
        last[at] ^= mask[at];
    return EVP_EncryptUpdate(transform->xcbc, mac, &written, last, BLOCK_MAXIMUM);
}

static bool compute_mac(const struct transform *transform, const uint8_t *data, size_t length,
                        uint8_t mac[EVP_MAX_MD_SIZE]) {
    if (transform->xcbc)
        return xcbc(transform, data, length, mac);
    size_t written;
    return EVP_MAC_init(transform->mac, NULL, 0, NULL) && EVP_MAC_update(transform->mac, data, length) &&
           EVP_MAC_final(transform->mac, mac, &written, EVP_MAX_MD_SIZE);
}

/* The IV of a block cipher's context for one packet: nonce, IV and a counter from one (RFC 3686 §4). */
static bool begin_counter(const struct transform *transform, const uint8_t *iv) {
    const struct suite *suite = transform->suite;
    uint8_t block[BLOCK_MAXIMUM];
    memcpy(block, transform->key + suite->key_length - suite->salt_length, suite->salt_length);
    memcpy(block + suite->salt_length, iv, suite->iv_length);
    put32(block + 12, 1);
    return EVP_CipherInit_ex2(transform->cipher, NULL, NULL, block, -1, NULL);
}

/* SPI and sequence number, all 64 bits of it with ESN (RFC 4106 §5, RFC 4309 §5, RFC 7634 §2.1). */
static int associated_data(const struct transform *transform, uint64_t sequence, uint8_t data[12]) {
    put32(data, transform->spi);
    if (transform->suite->esn) {
        put64(data + 4, sequence);
        return 12;
    }
    put32(data + 4, (uint32_t)sequence);
    return 8;
}

static void make_nonce(const struct transform *transform, const uint8_t *iv, uint8_t nonce[12]) {
    const struct suite *suite = transform->suite;
    memcpy(nonce, transform->key + suite->key_length - suite->salt_length, suite->salt_length);
    memcpy(nonce + suite->salt_length, iv, suite->iv_length);
}

/* The context for one packet, keyed if need be; NULL when libcrypto failed. */
static EVP_CIPHER_CTX *begin_aead(const struct transform *transform, struct means *means, bool sealing,
                                  uint64_t sequence, const uint8_t *iv, int length, const uint8_t *tag) {
    const struct suite *suite = transform->suite;
    const uint8_t *key = NULL;
    EVP_CIPHER_CTX *context = transform->cipher ? transform->cipher : borrow(means, transform, sealing, &key);
    uint8_t nonce[12], data[12];
    int written;
    make_nonce(transform, iv, nonce);
    int data_length = associated_data(transform, sequence, data);
    if (!context)
        return NULL;
    if (!EVP_CipherInit_ex2(context, NULL, key, nonce, -1, NULL)) {
        if (key)
            take_back(lent_to(means, transform, sealing));
        return NULL;
    }
    if (tag && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, suite->icv_length, (void *)tag) <= 0)
        return NULL;
    if (suite->kind == KIND_CCM && !EVP_CipherUpdate(context, NULL, &written, NULL, length))
        return NULL;
    return EVP_CipherUpdate(context, NULL, &written, data, data_length) ? context : NULL;
}

static bool seal_aead(const struct transform *transform, struct means *means, uint64_t sequence, uint8_t *out,
                      int length) {
    const struct suite *suite = transform->suite;
    uint8_t *iv = out + HEADER_LENGTH, *text = iv + suite->iv_length;
    int written;
    put64(iv, sequence); /* RFC 4106 §3.1: never repeated */
    if (suite->gcm) {
        uint8_t nonce[GCM_NONCE], data[12];
        make_nonce(transform, iv, nonce);
        gcm_seal(suite->gcm, transform->gcm, nonce, data, (size_t)associated_data(transform, sequence, data), text,
                 (size_t)length, text + length, suite->icv_length);
        return true;
    }
    EVP_CIPHER_CTX *context = begin_aead(transform, means, true, sequence, iv, length, NULL);
    return context && EVP_CipherUpdate(context, text, &written, text, length) &&
           EVP_CipherFinal_ex(context, text + length, &written) &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, suite->icv_length, text + length) > 0;
}

static bool seal_mac(const struct transform *transform, struct random_pool *pool, uint64_t sequence, uint8_t *out,
                     int length) {
    const struct suite *suite = transform->suite;
    uint8_t *iv = out + HEADER_LENGTH, *text = iv + suite->iv_length, *icv = text + length;
    uint8_t mac[EVP_MAX_MD_SIZE];
    int written;
    if (suite->kind == KIND_CBC) {
        /* One context chains through all packets: what a random block encrypts to is the IV, which nobody can foresee
         * (RFC 3602 §3). */
        if (!draw(pool, iv, suite->iv_length) ||
            !EVP_CipherUpdate(transform->cipher, iv, &written, iv, suite->iv_length + length))
            return false;
    } else if (suite->kind == KIND_CTR) {
        put64(iv, sequence); /* RFC 3686 §3.1 */
        if (!begin_counter(transform, iv) || !EVP_CipherUpdate(transform->cipher, text, &written, text, length))
            return false;
    }
    size_t covered = (size_t)(icv - out);
    if (suite->esn) { /* RFC 4303 §2.2.1: the high half takes part in the ICV only */
        put32(icv, (uint32_t)(sequence >> 32));
        covered += 4;
    }
    if (!compute_mac(transform, out, covered, mac))
        return false;
    memcpy(icv, mac, suite->icv_length);
    return true;
}

bool transform_seal(struct transform *transform, struct means *means, uint64_t sequence, const uint8_t *payload,
                    size_t length, uint8_t next_header, uint8_t *out) {
    const struct suite *suite = transform->suite;
    uint8_t *text = transform_text(suite, out);
    if (payload != text)
        memmove(text, payload, length);
    size_t padding = pad_length(suite, length);
    for (size_t at = 0; at < padding; at++) /* RFC 4303 §2.4: 1, 2, 3, … */
        text[length + at] = (uint8_t)(at + 1);
    text[length + padding] = (uint8_t)padding;
    text[length + padding + 1] = next_header;
    put32(out, transform->spi);
    put32(out + 4, (uint32_t)sequence);
    int whole = (int)(length + padding + TRAILER_LENGTH);
    return suite->kind <= KIND_CHACHA ? seal_aead(transform, means, sequence, out, whole)
                                      : seal_mac(transform, &means->random, sequence, out, whole);
}

static int open_aead(const struct transform *transform, struct means *means, uint64_t sequence, uint8_t *esp,
                     uint8_t *text, int length) {
    const struct suite *suite = transform->suite;
    int written;
    if (suite->gcm) {
        uint8_t nonce[GCM_NONCE], data[12];
        make_nonce(transform, esp + HEADER_LENGTH, nonce);
        return gcm_open(suite->gcm, transform->gcm, nonce, data, (size_t)associated_data(transform, sequence, data), text,
                        (size_t)length, text + length, suite->icv_length)
                   ? 0
                   : FAST_BAD_ICV;
    }
    EVP_CIPHER_CTX *context =
        begin_aead(transform, means, false, sequence, esp + HEADER_LENGTH, length, text + length);
    if (!context || EVP_CipherUpdate(context, text, &written, text, length) <= 0)
        return FAST_BAD_ICV;
    /* CCM has compared the ICV already, and has nothing to finish. */
    if (suite->kind != KIND_CCM && EVP_CipherFinal_ex(context, text + length, &written) <= 0)
        return FAST_BAD_ICV;
    return 0;
}

static int open_mac(const struct transform *transform, uint64_t sequence, uint8_t *esp, uint8_t *text, int length) {
    const struct suite *suite = transform->suite;
    uint8_t received[ICV_MAXIMUM], mac[EVP_MAX_MD_SIZE], *icv = text + length;
    int written;
    size_t covered = (size_t)(icv - esp);
    memcpy(received, icv, suite->icv_length);
    if (suite->esn) {
        put32(icv, (uint32_t)(sequence >> 32));
        covered += 4;
    }
    if (!compute_mac(transform, esp, covered, mac) || CRYPTO_memcmp(mac, received, suite->icv_length))
        return FAST_BAD_ICV;
    if (suite->kind == KIND_CBC) {
        /* Decrypting a block needs only the one before it: the chained context spoils the IV alone. */
        uint8_t *iv = esp + HEADER_LENGTH;
        if (!EVP_CipherUpdate(transform->cipher, iv, &written, iv, suite->iv_length + length))
            return FAST_BAD_ICV;
    } else if (suite->kind == KIND_CTR) {
        if (!begin_counter(transform, esp + HEADER_LENGTH) ||
            !EVP_CipherUpdate(transform->cipher, text, &written, text, length))
            return FAST_BAD_ICV;
    }
    return 0;
}

int transform_open(struct transform *transform, struct means *means, uint64_t sequence, uint8_t *esp, size_t length,
                   uint8_t **plaintext, size_t *plaintext_length) {
    const struct suite *suite = transform->suite;
    bool aead = suite->kind <= KIND_CHACHA;
    size_t clear = HEADER_LENGTH + suite->iv_length;
    if (length < clear + (aead ? ALIGNMENT : suite->alignment) + suite->icv_length)
        return FAST_MALFORMED;
    size_t text_length = length - clear - suite->icv_length;
    if (!aead && text_length & (suite->alignment - 1u))
        return FAST_MALFORMED;
    *plaintext = esp + clear;
    *plaintext_length = text_length;
    return aead ? open_aead(transform, means, sequence, esp, *plaintext, (int)text_length)
                : open_mac(transform, sequence, esp, *plaintext, (int)text_length);
}
