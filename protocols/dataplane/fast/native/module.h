/* What other parts of the extension module use of its Core. */
#ifndef FAST_MODULE_H
#define FAST_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core.h"

/* Octets of a packed path: version, port and address of both ends, in network order. */
#define PACKED_PATH_LENGTH 38

/* The core of a _native.Core; it lives as long as the object. NULL and TypeError for another object. */
fast_core *fast_core_of(PyObject *);

void pack_path(uint8_t packed[PACKED_PATH_LENGTH], const fast_path *);

/* False and ValueError for another length. */
bool unpack_path(fast_path *, const uint8_t *packed, Py_ssize_t length);

#endif
