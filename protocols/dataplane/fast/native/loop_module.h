/* The loop and its segmentation as Python sees them. */
#ifndef FAST_LOOP_MODULE_H
#define FAST_LOOP_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Add Loop, segment and coalesce to the extension module. -1 with an exception set. */
int fast_loop_register(PyObject *module);

#endif
