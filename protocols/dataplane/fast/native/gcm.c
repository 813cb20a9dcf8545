#include "gcm.h"

#if __has_include(<intel-ipsec-mb.h>)

#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE 64 /* octets of the cache */

struct gcm {
    aes_gcm_pre_t prepare;
    aes_gcm_enc_dec_t encrypt, decrypt;
};

struct gcm_key {
    _Alignas(LINE) struct gcm_key_data expanded;
};

/* Written once, by `look`. */
static struct {
    const char *version;
    struct gcm by_key[3]; /* of 16, 24, 32 octets */
} found;
static pthread_once_t looked = PTHREAD_ONCE_INIT;

/* Test case 2 of the GCM specification (McGrew and Viega, appendix B): a block of zeros, key and nonce of zeros. */
static bool is_right(const struct gcm *gcm) {
    static const uint8_t zero[16];
    static const uint8_t ciphertext[16] = {0x03, 0x88, 0xda, 0xce, 0x60, 0xb6, 0xa3, 0x92,
                                           0xf3, 0x28, 0xc2, 0xb9, 0x71, 0xb2, 0xfe, 0x78};
    static const uint8_t tag[16] = {0xab, 0x6e, 0x47, 0xd4, 0x2c, 0xec, 0x13, 0xbd,
                                    0xf5, 0x3a, 0x67, 0xb2, 0x12, 0x57, 0xbd, 0xdf};
    uint8_t text[16] = {0}, icv[16];
    struct gcm_key *key = gcm_key_new(gcm, zero);
    if (!key)
        return false;
    gcm_seal(gcm, key, zero, zero, 0, text, sizeof text, icv, sizeof icv);
    bool right = !memcmp(text, ciphertext, sizeof text) && !memcmp(icv, tag, sizeof icv) &&
                 gcm_open(gcm, key, zero, zero, 0, text, sizeof text, icv, sizeof icv) && !memcmp(text, zero, sizeof text);
    gcm_key_free(key);
    return right;
}

/* Its version; NULL: of no use here. */
static const char *take(void *library) {
    unsigned (*get_version)(void) = (unsigned (*)(void))dlsym(library, "imb_get_version");
    const char *(*get_version_str)(void) = (const char *(*)(void))dlsym(library, "imb_get_version_str");
    IMB_MGR *(*alloc)(uint64_t) = (IMB_MGR * (*)(uint64_t)) dlsym(library, "alloc_mb_mgr");
    void (*init_auto)(IMB_MGR *, IMB_ARCH *) = (void (*)(IMB_MGR *, IMB_ARCH *))dlsym(library, "init_mb_mgr_auto");
    void (*release)(IMB_MGR *) = (void (*)(IMB_MGR *))dlsym(library, "free_mb_mgr");
    if (!get_version || !get_version_str || !alloc || !init_auto || !release || get_version() < IMB_VERSION_NUM)
        return NULL;
    IMB_MGR *manager = alloc(0);
    if (!manager)
        return NULL;
    IMB_ARCH architecture = IMB_ARCH_NONE;
    init_auto(manager, &architecture);
    found.by_key[0] = (struct gcm){manager->gcm128_pre, manager->gcm128_enc, manager->gcm128_dec};
    found.by_key[1] = (struct gcm){manager->gcm192_pre, manager->gcm192_enc, manager->gcm192_dec};
    found.by_key[2] = (struct gcm){manager->gcm256_pre, manager->gcm256_enc, manager->gcm256_dec};
    release(manager); /* its functions for AES-GCM do without */
    /* Without instructions for AES it would look keys up in tables. */
    return architecture >= IMB_ARCH_SSE && is_right(&found.by_key[0]) ? get_version_str() : NULL;
}

static void look(void) {
    char name[32];
    snprintf(name, sizeof name, "libIPSec_MB.so.%d", IMB_VERSION_NUM >> 16); /* the releases of one header */
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library && !(found.version = take(library)))
        dlclose(library);
}

const char *gcm_version(void) {
    pthread_once(&looked, look);
    return found.version;
}

const struct gcm *gcm_for(size_t key_octets) {
    return gcm_version() && key_octets % 8 == 0 && key_octets >= 16 && key_octets <= 32 ? &found.by_key[key_octets / 8 - 2]
                                                                                        : NULL;
}

struct gcm_key *gcm_key_new(const struct gcm *gcm, const uint8_t *key) {
    struct gcm_key *made = aligned_alloc(LINE, sizeof *made);
    if (made)
        gcm->prepare(key, &made->expanded);
    return made;
}

void gcm_key_free(struct gcm_key *key) {
    if (key)
        OPENSSL_cleanse(key, sizeof *key);
    free(key);
}

void gcm_key_fetch(const struct gcm_key *key) {
    for (size_t at = 0; at < sizeof *key; at += LINE)
        __builtin_prefetch((const char *)key + at, 0, 1);
}

void gcm_seal(const struct gcm *gcm, const struct gcm_key *key, const uint8_t nonce[GCM_NONCE], const uint8_t *data,
              size_t data_length, uint8_t *text, size_t length, uint8_t *icv, size_t icv_length) {
    struct gcm_context_data context;
    gcm->encrypt(&key->expanded, &context, text, text, length, nonce, data, data_length, icv, icv_length);
}

bool gcm_open(const struct gcm *gcm, const struct gcm_key *key, const uint8_t nonce[GCM_NONCE], const uint8_t *data,
              size_t data_length, uint8_t *text, size_t length, const uint8_t *icv, size_t icv_length) {
    struct gcm_context_data context;
    uint8_t computed[GCM_ICV_MAXIMUM];
    gcm->decrypt(&key->expanded, &context, text, text, length, nonce, data, data_length, computed, icv_length);
    return !CRYPTO_memcmp(computed, icv, icv_length);
}

#else

const char *gcm_version(void) {
    return NULL;
}

const struct gcm *gcm_for(size_t key_octets) {
    (void)key_octets;
    return NULL;
}

struct gcm_key *gcm_key_new(const struct gcm *gcm, const uint8_t *key) {
    (void)gcm, (void)key;
    return NULL;
}

void gcm_key_free(struct gcm_key *key) {
    (void)key;
}

void gcm_key_fetch(const struct gcm_key *key) {
    (void)key;
}

void gcm_seal(const struct gcm *gcm, const struct gcm_key *key, const uint8_t nonce[GCM_NONCE], const uint8_t *data,
              size_t data_length, uint8_t *text, size_t length, uint8_t *icv, size_t icv_length) {
    (void)gcm, (void)key, (void)nonce, (void)data, (void)data_length, (void)text, (void)length, (void)icv, (void)icv_length;
}

bool gcm_open(const struct gcm *gcm, const struct gcm_key *key, const uint8_t nonce[GCM_NONCE], const uint8_t *data,
              size_t data_length, uint8_t *text, size_t length, const uint8_t *icv, size_t icv_length) {
    (void)gcm, (void)key, (void)nonce, (void)data, (void)data_length, (void)text, (void)length, (void)icv, (void)icv_length;
    return false;
}

#endif
