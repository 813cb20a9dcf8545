#include "loop_module.h"

#include <errno.h>
#include <fcntl.h>

#include "loop.h"
#include "module.h"
#include "offload.h"

typedef struct {
    PyObject_HEAD
    PyObject *core; /* lives at least as long as the loop */
    fast_loop *loop;
} LoopObject;

static const char *const counter_names[LOOP_COUNTERS] = {
    [LOOP_TUN_PACKETS] = "tun_packets",
    [LOOP_TUN_SUPER_PACKETS] = "tun_super_packets",
    [LOOP_TUN_MALFORMED] = "tun_malformed",
    [LOOP_LONG] = "long",
    [LOOP_LONG_DROPPED] = "long_dropped",
    [LOOP_SEALED] = "sealed",
    [LOOP_SENT] = "sent",
    [LOOP_SENT_TRAINS] = "sent_trains",
    [LOOP_SOCKET_FULL] = "socket_full",
    [LOOP_SEND_ERRORS] = "send_errors",
    [LOOP_NO_SOCKET] = "no_socket",
    [LOOP_RECEIVED] = "received",
    [LOOP_RECEIVED_TRAINS] = "received_trains",
    [LOOP_RECEIVE_ERRORS] = "receive_errors",
    [LOOP_UNREACHABLE] = "unreachable",
    [LOOP_KEEPALIVES] = "keepalives",
    [LOOP_SHORT] = "short",
    [LOOP_OTHER] = "other",
    [LOOP_OTHER_DROPPED] = "other_dropped",
    [LOOP_OPENED] = "opened",
    [LOOP_WRITTEN] = "written",
    [LOOP_WRITTEN_SUPER_PACKETS] = "written_super_packets",
    [LOOP_TUN_FULL] = "tun_full",
    [LOOP_TUN_REFUSED] = "tun_refused",
    [LOOP_NO_TUN] = "no_tun",
    [LOOP_TURNS] = "turns",
};

/* Of a call that gave a number, or -errno. */
static PyObject *number_or_error(int value) {
    if (value < 0) {
        errno = -value;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(value);
}

static PyObject *loop_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"core", "workers", "channel", "long_channel", NULL};
    PyObject *core;
    unsigned workers;
    int channels[2], own[2];
    fast_core *native;
    LoopObject *self;

    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OIii", names, &core, &workers, &channels[0], &channels[1]))
        return NULL;
    native = fast_core_of(core);
    if (native == NULL)
        return NULL;
    if (workers < 1 || workers > LOOP_WORKERS)
        return PyErr_Format(PyExc_ValueError, "%u workers, 1 to %d were expected", workers, LOOP_WORKERS);
    own[0] = fcntl(channels[0], F_DUPFD_CLOEXEC, 0);
    own[1] = own[0] < 0 ? -1 : fcntl(channels[1], F_DUPFD_CLOEXEC, 0);
    if (own[1] < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    self = own[1] < 0 ? NULL : (LoopObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        for (int i = 0; i < 2; i++)
            if (own[i] >= 0)
                close(own[i]);
        return NULL;
    }
    self->core = Py_NewRef(core);
    self->loop = fast_loop_new(native, workers, own[0], own[1]);
    if (self->loop == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void loop_dealloc(LoopObject *self) {
    PyTypeObject *type = Py_TYPE(self);

    if (self->loop != NULL) {
        Py_BEGIN_ALLOW_THREADS
        fast_loop_free(self->loop);
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(self->core);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *loop_start(LoopObject *self, PyObject *Py_UNUSED(ignored)) {
    int done;

    Py_BEGIN_ALLOW_THREADS
    done = fast_loop_start(self->loop);
    Py_END_ALLOW_THREADS
    return number_or_error(done);
}

static PyObject *loop_stop(LoopObject *self, PyObject *Py_UNUSED(ignored)) {
    Py_BEGIN_ALLOW_THREADS
    fast_loop_stop(self->loop);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *loop_add_socket(LoopObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"descriptor", "worker", "encapsulation", "address", "port", "urgent", NULL};
    int descriptor, encapsulation, urgent, done;
    unsigned worker;
    unsigned short port;
    Py_buffer address;
    fast_endpoint local = {0};

    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iIpy*Hp", names, &descriptor, &worker, &encapsulation, &address,
                                     &port, &urgent))
        return NULL;
    if (address.len != 4 && address.len != 16) {
        PyBuffer_Release(&address);
        return PyErr_Format(PyExc_ValueError, "an address has 4 or 16 octets");
    }
    local.version = address.len == 4 ? 4 : 6;
    local.port = port;
    memcpy(local.address, address.buf, (size_t)address.len);
    PyBuffer_Release(&address);
    Py_BEGIN_ALLOW_THREADS
    done = fast_loop_add_socket(self->loop, descriptor, worker, encapsulation ? LOOP_UDP : LOOP_RAW, &local, urgent);
    Py_END_ALLOW_THREADS
    return number_or_error(done);
}

static PyObject *loop_add_queue(LoopObject *self, PyObject *arguments, PyObject *keywords) {
    static char *names[] = {"descriptor", "worker", "device", "udp_offload", NULL};
    int descriptor, udp_offload, done;
    unsigned worker, device;

    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iIIp", names, &descriptor, &worker, &device, &udp_offload))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = fast_loop_add_queue(self->loop, descriptor, worker, device, udp_offload);
    Py_END_ALLOW_THREADS
    return number_or_error(done);
}

static PyObject *loop_remove(LoopObject *self, PyObject *argument) {
    long source = PyLong_AsLong(argument);
    int done;

    if (source == -1 && PyErr_Occurred())
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = fast_loop_remove(self->loop, source < 0 || source >= LOOP_SOURCES ? -1 : (int)source);
    Py_END_ALLOW_THREADS
    return number_or_error(done);
}

static PyObject *reasons(const uint64_t counters[FAST_REASONS]) {
    PyObject *list = PyList_New(FAST_REASONS);

    for (int i = 0; list != NULL && i < FAST_REASONS; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(counters[i]);

        if (value == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, value);
    }
    return list;
}

static PyObject *loop_counters(LoopObject *self, PyObject *Py_UNUSED(ignored)) {
    struct loop_totals totals;
    PyObject *counters = PyDict_New(), *sealing, *opening;

    if (counters == NULL)
        return NULL;
    fast_loop_read(self->loop, &totals);
    for (int i = 0; i < LOOP_COUNTERS; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(totals.counters[i]);

        if (value == NULL || PyDict_SetItemString(counters, counter_names[i], value) < 0) {
            Py_XDECREF(value);
            Py_DECREF(counters);
            return NULL;
        }
        Py_DECREF(value);
    }
    sealing = reasons(totals.sealing);
    opening = reasons(totals.opening);
    if (sealing == NULL || opening == NULL) {
        Py_DECREF(counters);
        Py_XDECREF(sealing);
        Py_XDECREF(opening);
        return NULL;
    }
    return Py_BuildValue("NNN", counters, sealing, opening);
}

static PyObject *loop_device_counters(LoopObject *self, PyObject *argument) {
    unsigned long device = PyLong_AsUnsignedLong(argument);
    struct loop_device_totals totals;

    if (device == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (device >= FAST_DEVICES)
        return PyErr_Format(PyExc_ValueError, "device %lu, 0 to %d were expected", device, FAST_DEVICES - 1);
    fast_loop_read_device(self->loop, (unsigned)device, &totals);
    return Py_BuildValue("KKK", (unsigned long long)totals.read, (unsigned long long)totals.written,
                         (unsigned long long)totals.refused);
}

static PyObject *loop_failure(LoopObject *self, PyObject *Py_UNUSED(ignored)) {
    int source, error;
    bool found;

    Py_BEGIN_ALLOW_THREADS
    found = fast_loop_failure(self->loop, &source, &error);
    Py_END_ALLOW_THREADS
    if (!found)
        Py_RETURN_NONE;
    return Py_BuildValue("ii", source, error);
}

static PyObject *loop_eventfd(LoopObject *self, void *Py_UNUSED(closure)) {
    return PyLong_FromLong(fast_loop_eventfd(self->loop));
}

static PyMethodDef loop_methods[] = {
    {"start", (PyCFunction)loop_start, METH_NOARGS, "Begin the threads; OSError."},
    {"stop", (PyCFunction)loop_stop, METH_NOARGS, "End the threads and wait for them."},
    {"add_socket", (PyCFunction)(void (*)(void))loop_add_socket, METH_VARARGS | METH_KEYWORDS,
     "Read a socket and send by it; the number of the source, OSError."},
    {"add_queue", (PyCFunction)(void (*)(void))loop_add_queue, METH_VARARGS | METH_KEYWORDS,
     "Read and write a queue of a TUN device; the number of the source, OSError."},
    {"remove", (PyCFunction)loop_remove, METH_O, "Let go of a source; OSError."},
    {"counters", (PyCFunction)loop_counters, METH_NOARGS,
     "Counters by name, and what was not sealed and not opened by the number of its reason."},
    {"device_counters", (PyCFunction)loop_device_counters, METH_O,
     "Inner packets read from a device, written to it, and not taken by it."},
    {"failure", (PyCFunction)loop_failure, METH_NOARGS, "A source that ended by itself and its errno, or None."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef loop_attributes[] = {
    {"eventfd", (getter)loop_eventfd, NULL, "Readable when a source has ended by itself.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, "The threads between TUN queues and sockets."},
    {Py_tp_new, loop_new},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_attributes},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "protocols.dataplane.fast._native.Loop",
    .basicsize = sizeof(LoopObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = loop_slots,
};

/* ---- segmentation and coalescing on octets ---- */

static PyObject *segment(PyObject *Py_UNUSED(module), PyObject *argument) {
    struct virtio_net_hdr header;
    struct segmenter segmenter;
    PyObject *copy, *list = NULL;
    uint8_t *octets, *packet;
    size_t length;

    copy = PyByteArray_FromObject(argument);
    if (copy == NULL)
        return NULL;
    octets = (uint8_t *)PyByteArray_AS_STRING(copy);
    length = (size_t)PyByteArray_GET_SIZE(copy);
    if (length < sizeof header) {
        PyErr_SetString(PyExc_ValueError, "shorter than a virtio_net_hdr");
    } else {
        memcpy(&header, octets, sizeof header);
        if (!segment_begin(&segmenter, &header, octets + sizeof header, length - sizeof header))
            PyErr_SetString(PyExc_ValueError, "packet and virtio_net_hdr do not fit one another");
        else
            list = PyList_New(0);
    }
    while (list != NULL && (length = segment_next(&segmenter, &packet)) > 0) {
        PyObject *one = PyBytes_FromStringAndSize((char *)packet, (Py_ssize_t)length);

        if (one == NULL || PyList_Append(list, one) < 0)
            Py_CLEAR(list);
        Py_XDECREF(one);
    }
    Py_DECREF(copy);
    return list;
}

static void append_written(void *context, const struct iovec *parts, int count, unsigned Py_UNUSED(packets)) {
    PyObject *whole = PyByteArray_FromStringAndSize(NULL, 0);

    for (int i = 0; i < count && whole != NULL; i++) {
        Py_ssize_t before = PyByteArray_GET_SIZE(whole);

        if (PyByteArray_Resize(whole, before + (Py_ssize_t)parts[i].iov_len) < 0)
            Py_CLEAR(whole);
        else
            memcpy(PyByteArray_AS_STRING(whole) + before, parts[i].iov_base, parts[i].iov_len);
    }
    if (whole != NULL && !PyErr_Occurred())
        PyList_Append(context, whole);
    Py_XDECREF(whole);
}

static PyObject *coalesce(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *packets, *copies, *written = NULL;
    struct coalescer *coalescer;
    int udp;

    if (!PyArg_ParseTuple(arguments, "Op", &packets, &udp))
        return NULL;
    coalescer = PyMem_Calloc(1, sizeof *coalescer);
    copies = PyList_New(0);
    packets = PySequence_Fast(packets, "packets are a sequence");
    if (coalescer != NULL && copies != NULL && packets != NULL)
        written = PyList_New(0);
    if (written != NULL) {
        *coalescer = (struct coalescer){.write = append_written, .context = written, .udp = udp};
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(packets) && !PyErr_Occurred(); i++) {
            PyObject *copy = PyByteArray_FromObject(PySequence_Fast_GET_ITEM(packets, i));

            if (copy != NULL && PyList_Append(copies, copy) == 0)
                coalesce_packet(coalescer, (uint8_t *)PyByteArray_AS_STRING(copy), (size_t)PyByteArray_GET_SIZE(copy));
            Py_XDECREF(copy);
        }
        coalesce_flush(coalescer);
    } else if (!PyErr_Occurred()) {
        PyErr_NoMemory();
    }
    if (PyErr_Occurred())
        Py_CLEAR(written);
    PyMem_Free(coalescer);
    Py_XDECREF(copies);
    Py_XDECREF(packets);
    return written;
}

static PyMethodDef functions[] = {
    {"segment", segment, METH_O, "The packets in a virtio_net_hdr and what follows it; ValueError."},
    {"coalesce", coalesce, METH_VARARGS, "What is written for packets in this order, each behind its virtio_net_hdr."},
    {NULL, NULL, 0, NULL},
};

int fast_loop_register(PyObject *module) {
    PyObject *type = PyType_FromSpec(&loop_spec);
    int done;

    if (type == NULL)
        return -1;
    done = PyModule_AddObjectRef(module, "Loop", type);
    Py_DECREF(type);
    return done < 0 ? -1 : PyModule_AddFunctions(module, functions);
}
