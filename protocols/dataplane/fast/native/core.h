/* The core of the fast data plane: SAs, selectors, ESP (RFC 4303). No sockets, no threads of its own, no Python.
 *
 * Semantics are those of protocols/esp/sa.py and protocols/dataplane/userspace/engine.py. Control calls may come from
 * any thread and wait for the batches under way; a worker belongs to one thread at a time. SPIs are in host order.
 */
#ifndef FAST_CORE_H
#define FAST_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fast_core fast_core;     /* shared by all workers; control calls take its write lock */
typedef struct fast_worker fast_worker; /* one thread's place in the core, and its random octets */

typedef struct {
    const uint8_t *octets;
    size_t length;
} fast_octets;

/* port in host order; an IPv4 address in address[0..3], the rest zero */
typedef struct {
    uint8_t version;
    uint16_t port;
    uint8_t address[16];
} fast_endpoint;

typedef struct {
    fast_endpoint local, remote;
} fast_path;

/* How a sealed packet leaves: in UDP (RFC 3948) between the path's ports, or as IP protocol 50.
 * traffic_class: DSCP and ECN of the outer header. */
typedef struct {
    uint32_t inbound_spi; /* of the SA */
    fast_path path;
    uint8_t encapsulation;
    uint8_t traffic_class;
} fast_where;

/* protocols.esp.sa.DropReason, those before FAST_OF_AN_SA also in an SA's counters; FAST_NO_ROOM: the buffer is too short,
 * or memory has run out */
enum fast_reason {
    FAST_REPLAYED = 1,
    FAST_BAD_ICV,
    FAST_BAD_SELECTOR,
    FAST_MALFORMED,
    FAST_DUMMY,
    FAST_FRAGMENT,
    FAST_CONGESTION,
    FAST_TOO_BIG,
    FAST_OF_AN_SA,
    FAST_UNKNOWN_SPI = FAST_OF_AN_SA,
    FAST_NO_SA,
    FAST_NOT_IP,
    FAST_SEQUENCE_EXHAUSTED,
    FAST_LIFETIME_EXPIRED,
    FAST_NO_ROOM,
    FAST_REASONS
};

/* What a control call came to. */
enum fast_outcome {
    FAST_DONE = 0,
    FAST_TAKEN,       /* the inbound SPI is installed already */
    FAST_NOT_THERE,   /* the inbound SPI is not installed */
    FAST_UNSUPPORTED, /* this libcrypto lacks the suite, a length does not fit it, no selectors, no such device */
    FAST_NO_MEMORY
};

#define FAST_UNLIMITED UINT64_MAX
#define FAST_DEVICES 64
#define FAST_WINDOW_MAXIMUM 4096
#define FAST_INNER_MTU_MAXIMUM 65535

/* protocols.selectors.TrafficSelector; addresses as in fast_endpoint, both ends included */
typedef struct {
    uint8_t version;
    uint8_t protocol;
    uint16_t start_port, end_port;
    uint8_t start[16], end[16];
} fast_selector;

/* protocols.esp.sa.ChildSaSpec, checked by its check_spec; encryption and integrity by IANA's numbers, integrity 0 with
 * AEAD. Encryption keys include the salt. Nothing pointed to is kept. */
typedef struct {
    uint32_t inbound_spi, outbound_spi;
    uint16_t encryption, integrity;
    bool esn;
    fast_octets inbound_encryption_key, inbound_integrity_key;
    fast_octets outbound_encryption_key, outbound_integrity_key;
    const fast_selector *local_selectors, *remote_selectors;
    size_t local_count, remote_count;
    fast_path path;
    bool encapsulation, beet; /* the mode, tunnel otherwise: selectors of one host on each side */
    unsigned device;          /* what its packets come from and are for, less than FAST_DEVICES */
    unsigned replay_window; /* 0, or 32 to FAST_WINDOW_MAXIMUM */
    uint64_t soft_octets, hard_octets, soft_packets, hard_packets; /* FAST_UNLIMITED: none */
} fast_spec;

#define FAST_INNER_DSCP (-1)

#define FAST_ANY_MSS (-1)
#define FAST_MSS_OF_PATH (-2)

/* protocols.esp.tunnel.TunnelPolicy; dscp: of the outer header, or FAST_INNER_DSCP; mss: what SYNs may say at most,
 * FAST_MSS_OF_PATH: by fast_set_inner_mtu */
typedef struct {
    int dscp, mss;
} fast_policy;

/* protocols.dataplane.port.ChildSaCounters */
typedef struct {
    uint64_t inbound_packets, strayed_packets, inbound_octets, outbound_packets, outbound_octets;
    uint64_t replayed, bad_icv, bad_selector, malformed, dummy, too_big, fragment, congestion;
    uint64_t fragmented, mss_clamped, congestion_marked, ecn_unused, overhead_saved_octets;
} fast_counters;

/* protocols.dataplane.port.Carried */
typedef struct {
    uint64_t inbound_packets, inbound_octets, outbound_packets, outbound_octets;
} fast_carried;

enum fast_event_kind { FAST_PEER_ENDPOINT_OBSERVED = 0, FAST_SEQUENCE_NUMBERS_RUNNING_OUT, FAST_LIFETIME_REACHED, FAST_EVENT_KINDS };

typedef struct {
    enum fast_event_kind kind;
    uint32_t inbound_spi;
    bool last;      /* exhausted, or hard */
    fast_path path; /* of FAST_PEER_ENDPOINT_OBSERVED */
} fast_event;

/* So many directions of SAs with AEAD suites keep a context of libcrypto's, 1.2 kB each, which stay in the cache; later
 * ones share their worker's. */
#define FAST_CONTEXTS 512

/* libcrypto_alone: without what is faster for AES-GCM. NULL: errno says why. Free the workers before their core. */
fast_core *fast_core_new(unsigned contexts, bool libcrypto_alone);
void fast_core_free(fast_core *);
fast_worker *fast_worker_new(fast_core *);
void fast_worker_free(fast_worker *);

/* Around a batch: holds the SAs still (read lock). Never nested, and no control call of the same thread in between, which
 * would wait for itself. Keep batches short: control calls wait for them. fast_open lets a waiting control call in where
 * a rekeyed SA takes over by its packet. */
void fast_begin(fast_worker *);
void fast_end(fast_worker *);

/* The most that ESP adds to an inner packet: header, IV, padding, trailer, ICV. */
#define FAST_OVERHEAD 96

/* Seal one inner packet of a device by the newest of its SAs that selects it: octets of the ESP packet written to out, or
 * -reason. room >= length + FAST_OVERHEAD. inner may overlap out. -FAST_TOO_BIG: the path does not carry it in one piece;
 * it is not dropped, but handed back to be fragmented or answered (RFC 4301 §8.2.1), and where has the SA alone. */
int fast_seal(fast_worker *, unsigned device, const uint8_t *inner, size_t length, uint8_t *out, size_t room,
              fast_where *where);

/* The same by a certain SA, as it is, whatever the path carries: of what was handed back. fast_count_long says, once for
 * each, what became of it. */
int fast_seal_by(fast_worker *, uint32_t inbound_spi, const uint8_t *inner, size_t length, uint8_t *out, size_t room,
                 fast_where *where);
void fast_count_long(fast_worker *, uint32_t inbound_spi, bool mss_clamped, bool fragmented, bool dropped);

/* Verify and decrypt in place: octets of the inner packet, or -reason. *inner points into esp or, in BEET mode, to memory
 * of the worker, which fast_release gives back. path: local and remote it came by. traffic_class: of the outer header.
 * *device: the SA's, unless NULL. */
int fast_open(fast_worker *, uint8_t *esp, size_t length, const fast_path *path, uint8_t traffic_class, uint8_t **inner,
              unsigned *device);

/* The packets of fast_open so far need not stay where they are: at least once a batch. */
void fast_release(fast_worker *);

/* A hint, after fast_begin: the packets of a device that will be sealed or those that will be opened next, of which the
 * first FAST_EXPECTED count. Until fast_end or the next hint each packet sealed or opened brings what the SAs of some of
 * those behind it keep into the cache, which counts when each has another SA of very many. Packets stay where they are. */
#define FAST_EXPECTED 16
void fast_expect_inner(fast_worker *, unsigned device, const fast_octets *packets, size_t count);
void fast_expect_esp(fast_worker *, const fast_octets *packets, size_t count);

/* For all SAs; at first the inner DSCP is copied, and MSS are left alone. */
void fast_set_policy(fast_core *, const fast_policy *);

/* Control: protocols.dataplane.port.DataPlane. */
enum fast_outcome fast_install(fast_core *, const fast_spec *);
enum fast_outcome fast_replace(fast_core *, uint32_t old_inbound_spi, const fast_spec *, bool send_at_once);
enum fast_outcome fast_update_path(fast_core *, uint32_t inbound_spi, const fast_path *, bool encapsulation);
/* The longest inner packet whose ESP packet the path carries in one piece; at first FAST_INNER_MTU_MAXIMUM. */
enum fast_outcome fast_set_inner_mtu(fast_core *, uint32_t inbound_spi, uint32_t octets);
enum fast_outcome fast_retire(fast_core *, uint32_t inbound_spi);
enum fast_outcome fast_remove(fast_core *, uint32_t inbound_spi);
enum fast_outcome fast_read_counters(fast_core *, uint32_t inbound_spi, fast_counters *);

/* What all SAs of a device, less than FAST_DEVICES, have carried since the start, removed ones included. */
void fast_read_carried(fast_core *, unsigned device, fast_carried *);

/* The last sequence number sent and the highest accepted. fast_skip_sequence goes on from a later one. */
enum fast_outcome fast_read_sequences(fast_core *, uint32_t inbound_spi, uint64_t *sent, uint64_t *accepted);
enum fast_outcome fast_skip_sequence(fast_core *, uint32_t inbound_spi, uint64_t sent);

/* Every packet dropped since the start by reason, those of removed SAs and of no SA included. */
void fast_read_drops(fast_core *, uint64_t drops[FAST_REASONS]);
/* Those of the SAs of a device alone, and of packets from it that none of them selects. */
void fast_read_drops_of(fast_core *, unsigned device, uint64_t drops[FAST_REASONS]);
size_t fast_installed(fast_core *);

/* The next event, false when there is none; of a kind one waits per SA. The eventfd is readable while one waits. */
bool fast_poll_event(fast_core *, fast_event *);
int fast_core_eventfd(const fast_core *);

#endif
