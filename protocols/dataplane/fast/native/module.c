/* protocols.dataplane.fast._native: the core for Python. Numbers and packed octets go in and out; plane.py gives them
 * meaning. A control call waits for the batches under way, so that a thread in a batch must not wait for the GIL.
 */
#include "loop_module.h"
#include "module.h"

#include <string.h>

#include "flow.h"
#include "gcm.h"

enum { IDLE_WORKERS = 8, PACKED_SELECTOR_LENGTH = 38 };

typedef struct {
    PyObject_HEAD
    fast_core *core;
    fast_worker *idle[IDLE_WORKERS];
    int idle_count;
} CoreObject;

static PyTypeObject CoreType;

static CoreObject *self_of(PyObject *object) {
    return (CoreObject *)object;
}

fast_core *fast_core_of(PyObject *object) {
    if (PyObject_TypeCheck(object, &CoreType))
        return self_of(object)->core;
    PyErr_SetString(PyExc_TypeError, "not a Core");
    return NULL;
}

/* Packed values */

static void pack_endpoint(uint8_t *packed, const fast_endpoint *endpoint) {
    packed[0] = endpoint->version;
    packed[1] = (uint8_t)(endpoint->port >> 8);
    packed[2] = (uint8_t)endpoint->port;
    memcpy(packed + 3, endpoint->address, 16);
}

static void unpack_endpoint(fast_endpoint *endpoint, const uint8_t *packed) {
    endpoint->version = packed[0];
    endpoint->port = get16(packed + 1);
    memcpy(endpoint->address, packed + 3, 16);
}

void pack_path(uint8_t packed[PACKED_PATH_LENGTH], const fast_path *path) {
    pack_endpoint(packed, &path->local);
    pack_endpoint(packed + 19, &path->remote);
}

bool unpack_path(fast_path *path, const uint8_t *packed, Py_ssize_t length) {
    if (length != PACKED_PATH_LENGTH) {
        PyErr_SetString(PyExc_ValueError, "a packed path has 38 octets");
        return false;
    }
    unpack_endpoint(&path->local, packed);
    unpack_endpoint(&path->remote, packed + 19);
    return true;
}

/* Selectors: version, protocol, both ports, both addresses; NULL and an exception when they cannot be read. */
static fast_selector *unpack_selectors(const uint8_t *packed, Py_ssize_t length) {
    if (length % PACKED_SELECTOR_LENGTH) {
        PyErr_SetString(PyExc_ValueError, "a packed selector has 38 octets");
        return NULL;
    }
    size_t count = (size_t)(length / PACKED_SELECTOR_LENGTH);
    fast_selector *selectors = PyMem_Calloc(count ? count : 1, sizeof *selectors);
    if (!selectors) {
        PyErr_NoMemory();
        return NULL;
    }
    for (size_t at = 0; at < count; at++, packed += PACKED_SELECTOR_LENGTH) {
        selectors[at].version = packed[0];
        selectors[at].protocol = packed[1];
        selectors[at].start_port = get16(packed + 2);
        selectors[at].end_port = get16(packed + 4);
        memcpy(selectors[at].start, packed + 6, 16);
        memcpy(selectors[at].end, packed + 22, 16);
    }
    return selectors;
}

/* Workers: a batch takes one, so that several threads may run batches. */

static fast_worker *take_worker(CoreObject *self) {
    if (self->idle_count)
        return self->idle[--self->idle_count];
    fast_worker *worker = fast_worker_new(self->core);
    if (!worker)
        PyErr_NoMemory();
    return worker;
}

static void give_back(CoreObject *self, fast_worker *worker) {
    if (self->idle_count < IDLE_WORKERS)
        self->idle[self->idle_count++] = worker;
    else
        fast_worker_free(worker);
}

static PyObject *core_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"contexts", "libcrypto_alone", NULL};
    unsigned contexts = FAST_CONTEXTS;
    int libcrypto_alone = 0;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "|Ip", names, &contexts, &libcrypto_alone))
        return NULL;
    CoreObject *self = (CoreObject *)type->tp_alloc(type, 0);
    if (self && !(self->core = fast_core_new(contexts, libcrypto_alone))) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void core_dealloc(PyObject *object) {
    CoreObject *self = self_of(object);
    while (self->idle_count)
        fast_worker_free(self->idle[--self->idle_count]);
    if (self->core)
        fast_core_free(self->core);
    Py_TYPE(object)->tp_free(object);
}

/* Control */

#define SPEC_FORMAT "IIHHpy#y#y#y#y#y#y#ppI(KKKK)I"

/* The arguments of install: as ChildSaSpec has them, and the device; old and send_at_once of replace. */
static PyObject *put(PyObject *object, PyObject *arguments, bool replaces) {
    fast_core *core = self_of(object)->core;
    fast_spec spec;
    memset(&spec, 0, sizeof spec);
    const char *octets[7];
    Py_ssize_t lengths[7];
    unsigned inbound_spi, outbound_spi, old = 0;
    unsigned short encryption, integrity;
    int esn, encapsulation, beet, send_at_once = 1;
    unsigned long long soft_octets, hard_octets, soft_packets, hard_packets;
    if (!PyArg_ParseTuple(arguments, replaces ? SPEC_FORMAT "Ip" : SPEC_FORMAT, &inbound_spi, &outbound_spi, &encryption,
                          &integrity, &esn, &octets[0], &lengths[0], &octets[1], &lengths[1], &octets[2], &lengths[2],
                          &octets[3], &lengths[3], &octets[4], &lengths[4], &octets[5], &lengths[5], &octets[6],
                          &lengths[6], &encapsulation, &beet, &spec.replay_window, &soft_octets, &hard_octets,
                          &soft_packets, &hard_packets, &spec.device, &old, &send_at_once))
        return NULL;
    if (!unpack_path(&spec.path, (const uint8_t *)octets[6], lengths[6]))
        return NULL;
    fast_octets *keys[] = {&spec.inbound_encryption_key, &spec.inbound_integrity_key, &spec.outbound_encryption_key,
                           &spec.outbound_integrity_key};
    for (int at = 0; at < 4; at++)
        *keys[at] = (fast_octets){(const uint8_t *)octets[at], (size_t)lengths[at]};
    fast_selector *local = unpack_selectors((const uint8_t *)octets[4], lengths[4]);
    fast_selector *remote = local ? unpack_selectors((const uint8_t *)octets[5], lengths[5]) : NULL;
    if (!remote) {
        PyMem_Free(local);
        return NULL;
    }
    spec.inbound_spi = inbound_spi;
    spec.outbound_spi = outbound_spi;
    spec.encryption = encryption;
    spec.integrity = integrity;
    spec.esn = esn;
    spec.local_selectors = local;
    spec.local_count = (size_t)(lengths[4] / PACKED_SELECTOR_LENGTH);
    spec.remote_selectors = remote;
    spec.remote_count = (size_t)(lengths[5] / PACKED_SELECTOR_LENGTH);
    spec.encapsulation = encapsulation;
    spec.beet = beet;
    spec.soft_octets = soft_octets;
    spec.hard_octets = hard_octets;
    spec.soft_packets = soft_packets;
    spec.hard_packets = hard_packets;
    enum fast_outcome outcome = replaces ? fast_replace(core, old, &spec, send_at_once) : fast_install(core, &spec);
    PyMem_Free(local);
    PyMem_Free(remote);
    return PyLong_FromLong(outcome);
}

static PyObject *core_install(PyObject *object, PyObject *arguments) {
    return put(object, arguments, false);
}

static PyObject *core_replace(PyObject *object, PyObject *arguments) {
    return put(object, arguments, true);
}

static PyObject *core_update_path(PyObject *object, PyObject *arguments) {
    unsigned spi;
    const char *packed;
    Py_ssize_t length;
    int encapsulation;
    fast_path path;
    if (!PyArg_ParseTuple(arguments, "Iy#p", &spi, &packed, &length, &encapsulation) ||
        !unpack_path(&path, (const uint8_t *)packed, length))
        return NULL;
    return PyLong_FromLong(fast_update_path(self_of(object)->core, spi, &path, encapsulation));
}

static PyObject *core_set_inner_mtu(PyObject *object, PyObject *arguments) {
    unsigned spi, octets;
    if (!PyArg_ParseTuple(arguments, "II", &spi, &octets))
        return NULL;
    return PyLong_FromLong(fast_set_inner_mtu(self_of(object)->core, spi, octets));
}

static PyObject *core_retire(PyObject *object, PyObject *arguments) {
    unsigned spi;
    if (!PyArg_ParseTuple(arguments, "I", &spi))
        return NULL;
    return PyLong_FromLong(fast_retire(self_of(object)->core, spi));
}

static PyObject *core_remove(PyObject *object, PyObject *arguments) {
    unsigned spi;
    if (!PyArg_ParseTuple(arguments, "I", &spi))
        return NULL;
    return PyLong_FromLong(fast_remove(self_of(object)->core, spi));
}

static PyObject *core_set_policy(PyObject *object, PyObject *arguments) {
    fast_policy policy;
    if (!PyArg_ParseTuple(arguments, "ii", &policy.dscp, &policy.mss))
        return NULL;
    fast_set_policy(self_of(object)->core, &policy);
    Py_RETURN_NONE;
}

static PyObject *core_counters(PyObject *object, PyObject *arguments) {
    unsigned spi;
    fast_counters found;
    if (!PyArg_ParseTuple(arguments, "I", &spi))
        return NULL;
    if (fast_read_counters(self_of(object)->core, spi, &found) != FAST_DONE)
        Py_RETURN_NONE;
    return Py_BuildValue("KKKKKKKKKKKKKKKKKK", (unsigned long long)found.inbound_packets,
                         (unsigned long long)found.strayed_packets, (unsigned long long)found.inbound_octets,
                         (unsigned long long)found.outbound_packets, (unsigned long long)found.outbound_octets,
                         (unsigned long long)found.replayed, (unsigned long long)found.bad_icv,
                         (unsigned long long)found.bad_selector, (unsigned long long)found.malformed,
                         (unsigned long long)found.dummy, (unsigned long long)found.too_big,
                         (unsigned long long)found.fragment,
                         (unsigned long long)found.congestion, (unsigned long long)found.fragmented,
                         (unsigned long long)found.mss_clamped,
                         (unsigned long long)found.congestion_marked, (unsigned long long)found.ecn_unused,
                         (unsigned long long)found.overhead_saved_octets);
}

static PyObject *core_carried(PyObject *object, PyObject *arguments) {
    unsigned device;
    fast_carried found;
    if (!PyArg_ParseTuple(arguments, "I", &device))
        return NULL;
    if (device >= FAST_DEVICES)
        return PyErr_Format(PyExc_ValueError, "no device %u", device);
    fast_read_carried(self_of(object)->core, device, &found);
    return Py_BuildValue("KKKK", (unsigned long long)found.inbound_packets, (unsigned long long)found.inbound_octets,
                         (unsigned long long)found.outbound_packets, (unsigned long long)found.outbound_octets);
}

static PyObject *core_sequences(PyObject *object, PyObject *arguments) {
    unsigned spi;
    uint64_t sent, accepted;
    if (!PyArg_ParseTuple(arguments, "I", &spi))
        return NULL;
    if (fast_read_sequences(self_of(object)->core, spi, &sent, &accepted) != FAST_DONE)
        Py_RETURN_NONE;
    return Py_BuildValue("KK", (unsigned long long)sent, (unsigned long long)accepted);
}

static PyObject *core_skip_sequence(PyObject *object, PyObject *arguments) {
    unsigned spi;
    unsigned long long sent;
    if (!PyArg_ParseTuple(arguments, "IK", &spi, &sent))
        return NULL;
    return PyLong_FromLong(fast_skip_sequence(self_of(object)->core, spi, sent));
}

static PyObject *core_drops(PyObject *object, PyObject *arguments) {
    uint64_t drops[FAST_REASONS];
    unsigned device = FAST_DEVICES;
    if (!PyArg_ParseTuple(arguments, "|I", &device))
        return NULL;
    if (device < FAST_DEVICES)
        fast_read_drops_of(self_of(object)->core, device, drops);
    else
        fast_read_drops(self_of(object)->core, drops);
    PyObject *found = PyTuple_New(FAST_REASONS);
    for (int reason = 0; found && reason < FAST_REASONS; reason++) {
        PyObject *count = PyLong_FromUnsignedLongLong(drops[reason]);
        if (!count)
            Py_CLEAR(found);
        else
            PyTuple_SET_ITEM(found, reason, count);
    }
    return found;
}

static PyObject *core_installed(PyObject *object, PyObject *unused) {
    (void)unused;
    return PyLong_FromSize_t(fast_installed(self_of(object)->core));
}

static PyObject *core_poll_event(PyObject *object, PyObject *unused) {
    (void)unused;
    fast_event event;
    if (!fast_poll_event(self_of(object)->core, &event))
        Py_RETURN_NONE;
    uint8_t packed[PACKED_PATH_LENGTH];
    pack_path(packed, &event.path);
    return Py_BuildValue("iIOy#", (int)event.kind, (unsigned)event.inbound_spi, event.last ? Py_True : Py_False, packed,
                         (Py_ssize_t)sizeof packed);
}

static PyObject *core_eventfd(PyObject *object, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(fast_core_eventfd(self_of(object)->core));
}

/* Packets */

/* Seal a packet by the SA of a device that selects it, or by a certain one. */
static PyObject *seal_one(CoreObject *self, unsigned device, const unsigned *spi, const char *inner, Py_ssize_t length) {
    fast_where where;
    fast_worker *worker = take_worker(self);
    if (!worker)
        return NULL;
    PyObject *sealed = PyBytes_FromStringAndSize(NULL, length + FAST_OVERHEAD);
    if (!sealed) {
        give_back(self, worker);
        return NULL;
    }
    fast_begin(worker);
    const uint8_t *octets = (const uint8_t *)inner;
    uint8_t *out = (uint8_t *)PyBytes_AS_STRING(sealed);
    size_t room = (size_t)length + FAST_OVERHEAD;
    int result = spi ? fast_seal_by(worker, *spi, octets, (size_t)length, out, room, &where)
                     : fast_seal(worker, device, octets, (size_t)length, out, room, &where);
    fast_end(worker);
    give_back(self, worker);
    if (result < 0) {
        Py_DECREF(sealed);
        if (result != -FAST_TOO_BIG)
            return PyLong_FromLong(result);
        uint8_t of[4];
        put32(of, where.inbound_spi);
        return PyBytes_FromStringAndSize((char *)of, sizeof of);
    }
    uint8_t packed[PACKED_PATH_LENGTH];
    pack_path(packed, &where.path);
    if (_PyBytes_Resize(&sealed, result))
        return NULL;
    return Py_BuildValue("Ny#OB", sealed, packed, (Py_ssize_t)sizeof packed, where.encapsulation ? Py_True : Py_False,
                         where.traffic_class);
}

static PyObject *core_seal(PyObject *object, PyObject *arguments) {
    const char *inner;
    Py_ssize_t length;
    unsigned device;
    if (!PyArg_ParseTuple(arguments, "y#I", &inner, &length, &device))
        return NULL;
    if (device >= FAST_DEVICES)
        return PyErr_Format(PyExc_ValueError, "device %u, 0 to %d were expected", device, FAST_DEVICES - 1);
    return seal_one(self_of(object), device, NULL, inner, length);
}

static PyObject *core_seal_by(PyObject *object, PyObject *arguments) {
    unsigned spi;
    const char *inner;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(arguments, "Iy#", &spi, &inner, &length))
        return NULL;
    return seal_one(self_of(object), 0, &spi, inner, length);
}

static PyObject *core_count_long(PyObject *object, PyObject *arguments) {
    CoreObject *self = self_of(object);
    unsigned spi;
    int mss_clamped, fragmented, dropped;
    if (!PyArg_ParseTuple(arguments, "Ippp", &spi, &mss_clamped, &fragmented, &dropped))
        return NULL;
    fast_worker *worker = take_worker(self);
    if (!worker)
        return NULL;
    fast_begin(worker);
    fast_count_long(worker, spi, mss_clamped, fragmented, dropped);
    fast_end(worker);
    give_back(self, worker);
    Py_RETURN_NONE;
}

static PyObject *core_open(PyObject *object, PyObject *arguments) {
    CoreObject *self = self_of(object);
    const char *esp, *packed;
    Py_ssize_t length, packed_length;
    unsigned char traffic_class;
    fast_path path;
    if (!PyArg_ParseTuple(arguments, "y#y#b", &esp, &length, &packed, &packed_length, &traffic_class) ||
        !unpack_path(&path, (const uint8_t *)packed, packed_length))
        return NULL;
    uint8_t *copy = PyMem_Malloc((size_t)length + 1), *inner;
    if (!copy)
        return PyErr_NoMemory();
    fast_worker *worker = take_worker(self);
    if (!worker) {
        PyMem_Free(copy);
        return NULL;
    }
    memcpy(copy, esp, (size_t)length);
    fast_begin(worker);
    int result = fast_open(worker, copy, (size_t)length, &path, traffic_class, &inner, NULL);
    fast_end(worker);
    PyObject *opened = result < 0 ? PyLong_FromLong(result) : PyBytes_FromStringAndSize((char *)inner, result);
    fast_release(worker);
    give_back(self, worker);
    PyMem_Free(copy);
    return opened;
}

/* Packets of a batch lie in slots of one buffer, their lengths (32-bit integers of the machine's order) in another. */
static bool fits(const Py_buffer *slots, Py_ssize_t stride, Py_ssize_t least, const Py_buffer *lengths) {
    Py_ssize_t count = lengths->len / (Py_ssize_t)sizeof(int32_t);
    bool good = stride >= least && stride > 0 && slots->len / stride >= count;
    for (Py_ssize_t at = 0; good && at < count; at++) {
        int32_t length = ((const int32_t *)lengths->buf)[at];
        good = length >= 0 && length <= stride - least;
    }
    if (!good)
        PyErr_SetString(PyExc_ValueError, "the slots are too short or too few");
    return good;
}

/* The packets from slot at on, for a hint; how many. */
static size_t expected(fast_octets next[FAST_EXPECTED], const Py_buffer *slots, Py_ssize_t stride,
                       const Py_buffer *lengths, Py_ssize_t at) {
    Py_ssize_t left = lengths->len / (Py_ssize_t)sizeof(int32_t) - at;
    size_t count = left < FAST_EXPECTED ? (size_t)left : FAST_EXPECTED;
    for (size_t which = 0; which < count; which++, at++)
        next[which] = (fast_octets){(const uint8_t *)slots->buf + at * stride, (size_t)((int32_t *)lengths->buf)[at]};
    return count;
}

static PyObject *core_seal_batch(PyObject *object, PyObject *arguments) {
    CoreObject *self = self_of(object);
    Py_buffer slots, lengths, out;
    Py_ssize_t stride, out_stride;
    if (!PyArg_ParseTuple(arguments, "y*nw*w*n", &slots, &stride, &lengths, &out, &out_stride))
        return NULL;
    fast_worker *worker = NULL;
    Py_ssize_t sealed = -1, count = lengths.len / (Py_ssize_t)sizeof(int32_t);
    if (fits(&slots, stride, 0, &lengths) && fits(&out, out_stride, FAST_OVERHEAD, &lengths) &&
        (worker = take_worker(self))) {
        int32_t *length = lengths.buf;
        fast_octets next[FAST_EXPECTED];
        fast_where where;
        sealed = 0;
        Py_BEGIN_ALLOW_THREADS
        fast_begin(worker);
        for (Py_ssize_t at = 0; at < count; at++) {
            if (at % FAST_EXPECTED == 0)
                fast_expect_inner(worker, 0, next, expected(next, &slots, stride, &lengths, at));
            length[at] = fast_seal(worker, 0, (uint8_t *)slots.buf + at * stride, (size_t)length[at],
                                   (uint8_t *)out.buf + at * out_stride, (size_t)out_stride, &where);
            sealed += length[at] >= 0;
        }
        fast_end(worker);
        Py_END_ALLOW_THREADS
        give_back(self, worker);
    }
    PyBuffer_Release(&slots);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&out);
    return sealed < 0 ? NULL : PyLong_FromSsize_t(sealed);
}

static PyObject *core_open_batch(PyObject *object, PyObject *arguments) {
    CoreObject *self = self_of(object);
    Py_buffer slots, lengths, offsets, packed;
    Py_ssize_t stride;
    fast_path path;
    unsigned char traffic_class;
    if (!PyArg_ParseTuple(arguments, "w*nw*w*y*b", &slots, &stride, &lengths, &offsets, &packed, &traffic_class))
        return NULL;
    fast_worker *worker = NULL;
    Py_ssize_t opened = -1, count = lengths.len / (Py_ssize_t)sizeof(int32_t);
    if (fits(&slots, stride, 0, &lengths) && unpack_path(&path, packed.buf, packed.len)) {
        if (offsets.len < lengths.len)
            PyErr_SetString(PyExc_ValueError, "as many offsets as lengths are needed");
        else
            worker = take_worker(self);
    }
    if (worker) {
        int32_t *length = lengths.buf, *offset = offsets.buf;
        uint8_t *slot = slots.buf, *inner;
        fast_octets next[FAST_EXPECTED];
        opened = 0;
        Py_BEGIN_ALLOW_THREADS
        fast_begin(worker);
        for (Py_ssize_t at = 0; at < count; at++, slot += stride) {
            if (at % FAST_EXPECTED == 0)
                fast_expect_esp(worker, next, expected(next, &slots, stride, &lengths, at));
            inner = slot;
            length[at] = fast_open(worker, slot, (size_t)length[at], &path, traffic_class, &inner, NULL);
            if (length[at] > stride)
                length[at] = -FAST_NO_ROOM;
            else if (length[at] >= 0 && (inner < slot || inner >= slot + stride))
                inner = memcpy(slot, inner, (size_t)length[at]);
            offset[at] = (int32_t)(inner - slot);
            opened += length[at] >= 0;
            fast_release(worker);
        }
        fast_end(worker);
        Py_END_ALLOW_THREADS
        give_back(self, worker);
    }
    PyBuffer_Release(&slots);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&packed);
    return opened < 0 ? NULL : PyLong_FromSsize_t(opened);
}

static PyMethodDef CORE_METHODS[] = {
    {"install", core_install, METH_VARARGS, "Install an SA: an outcome."},
    {"replace", core_replace, METH_VARARGS, "Install an SA in place of an old one: an outcome."},
    {"update_path", core_update_path, METH_VARARGS, "Send on another path: an outcome."},
    {"set_inner_mtu", core_set_inner_mtu, METH_VARARGS, "What the path carries in one piece: an outcome."},
    {"retire", core_retire, METH_VARARGS, "Send no more by an SA: an outcome."},
    {"remove", core_remove, METH_VARARGS, "Forget an SA: an outcome."},
    {"set_policy", core_set_policy, METH_VARARGS, "DSCP of outer headers, or INNER_DSCP; MSS, ANY_MSS or MSS_OF_PATH."},
    {"counters", core_counters, METH_VARARGS, "The counters of an SA in ChildSaCounters' order, or None."},
    {"carried", core_carried, METH_VARARGS, "What all SAs of a device have carried, in Carried's order."},
    {"sequences", core_sequences, METH_VARARGS, "The last sequence number sent and the highest accepted, or None."},
    {"skip_sequence", core_skip_sequence, METH_VARARGS, "Go on from a later sequence number: an outcome."},
    {"drops", core_drops, METH_VARARGS, "Packets dropped, by reason: all, or those of the SAs of a device."},
    {"installed", core_installed, METH_NOARGS, "How many SAs are installed."},
    {"poll_event", core_poll_event, METH_NOARGS, "The next event: kind, SPI, whether the last, packed path; or None."},
    {"eventfd", core_eventfd, METH_NOARGS, "A descriptor that is readable while an event waits; not to be closed."},
    {"seal", core_seal, METH_VARARGS, "Seal a packet of a device: octets, packed path, encapsulation, traffic class; the SPI if it is too big; or a reason, negative."},
    {"seal_by", core_seal_by, METH_VARARGS, "The same by a certain SA, however long it is."},
    {"count_long", core_count_long, METH_VARARGS, "What became of a packet too big: MSS lowered, in pieces, dropped."},
    {"open", core_open, METH_VARARGS, "Open an ESP packet: the inner one; or a reason, negative."},
    {"seal_batch", core_seal_batch, METH_VARARGS,
     "Seal the packets in slots, device 0's, into out's slots, without the GIL: how many. lengths become octets or reasons; what is "
     "TOO_BIG is for send_inner."},
    {"open_batch", core_open_batch, METH_VARARGS,
     "Open the ESP packets in slots in place, without the GIL: how many. lengths become octets or reasons."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject CoreType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "protocols.dataplane.fast._native.Core",
    .tp_doc = "SAs, selectors and ESP (RFC 4303), compiled.",
    .tp_basicsize = sizeof(CoreObject),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = core_new,
    .tp_dealloc = core_dealloc,
    .tp_methods = CORE_METHODS,
};

static PyObject *ipsec_mb(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return Py_BuildValue("z", gcm_version());
}

static PyMethodDef METHODS[] = {
    {"ipsec_mb", ipsec_mb, METH_NOARGS, "The release of libIPSec_MB that AES-GCM is done by, or None."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "protocols.dataplane.fast._native",
    .m_doc = "The compiled core of the fast data plane.",
    .m_size = -1,
    .m_methods = METHODS,
};

PyMODINIT_FUNC PyInit__native(void) {
    static const struct {
        const char *name;
        long value;
    } constants[] = {
        {"DONE", FAST_DONE},
        {"TAKEN", FAST_TAKEN},
        {"NOT_THERE", FAST_NOT_THERE},
        {"UNSUPPORTED", FAST_UNSUPPORTED},
        {"NO_MEMORY", FAST_NO_MEMORY},
        {"REPLAYED", FAST_REPLAYED},
        {"BAD_ICV", FAST_BAD_ICV},
        {"BAD_SELECTOR", FAST_BAD_SELECTOR},
        {"MALFORMED", FAST_MALFORMED},
        {"DUMMY", FAST_DUMMY},
        {"FRAGMENT", FAST_FRAGMENT},
        {"CONGESTION", FAST_CONGESTION},
        {"TOO_BIG", FAST_TOO_BIG},
        {"UNKNOWN_SPI", FAST_UNKNOWN_SPI},
        {"NO_SA", FAST_NO_SA},
        {"NOT_IP", FAST_NOT_IP},
        {"SEQUENCE_EXHAUSTED", FAST_SEQUENCE_EXHAUSTED},
        {"LIFETIME_EXPIRED", FAST_LIFETIME_EXPIRED},
        {"NO_ROOM", FAST_NO_ROOM},
        {"PEER_ENDPOINT_OBSERVED", FAST_PEER_ENDPOINT_OBSERVED},
        {"SEQUENCE_NUMBERS_RUNNING_OUT", FAST_SEQUENCE_NUMBERS_RUNNING_OUT},
        {"LIFETIME_REACHED", FAST_LIFETIME_REACHED},
        {"INNER_DSCP", FAST_INNER_DSCP},
        {"ANY_MSS", FAST_ANY_MSS},
        {"MSS_OF_PATH", FAST_MSS_OF_PATH},
        {"OVERHEAD", FAST_OVERHEAD},
        {"WINDOW_MAXIMUM", FAST_WINDOW_MAXIMUM},
        {"CONTEXTS", FAST_CONTEXTS},
        {"DEVICES", FAST_DEVICES},
    };
    if (PyType_Ready(&CoreType) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&MODULE);
    if (!module)
        return NULL;
    bool good = PyModule_AddObjectRef(module, "Core", (PyObject *)&CoreType) == 0;
    for (size_t at = 0; good && at < sizeof constants / sizeof *constants; at++)
        good = PyModule_AddIntConstant(module, constants[at].name, constants[at].value) == 0;
    if (!good || fast_loop_register(module) < 0)
        Py_CLEAR(module);
    return module;
}
