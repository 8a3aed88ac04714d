/* Dicts of names and numbers. CPython's own call for each item costs more than learning from it,
 * so items are read where CPython keeps them: in the version of CPython that this was tested with.
 * In others they are read by that call. */
#ifndef STREAMFIT_DICTS_H
#define STREAMFIT_DICTS_H

#include <Python.h>

#if PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030c0000 && !defined(PYPY_VERSION)
#define SF_SEES_ITEMS
#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE
#include <internal/pycore_dict.h>
#undef Py_BUILD_CORE
#else
#include <internal/pycore_dict.h>
#endif

/* The place of a dict's items: (key, value), or with step 3 (key, value, hash); key and value are
 * NULL where an item was deleted. None, and step 0, where they are kept in another way. */
static inline PyObject *const *sf_items(PyObject *x, Py_ssize_t *n, Py_ssize_t *step) {
    const PyDictObject *dict = (const PyDictObject *)x;
    const PyDictKeysObject *keys = dict->ma_keys;
    const char *place = keys->dk_indices + ((size_t)1 << keys->dk_log2_index_bytes);
    const int hashes = keys->dk_kind == DICT_KEYS_GENERAL; /* the hash comes before the key */
    *n = dict->ma_values ? 0 : keys->dk_nentries; /* ma_values: an object's attributes */
    *step = dict->ma_values ? 0 : 2 + hashes;
    return (PyObject *const *)place + hashes;
}
#endif

/* Write the first items of a dict into `row`, as far as they are floats under the first of the
 * `limit` names, those very objects. Returns how many: where PyDict_Next may go on. */
static inline Py_ssize_t sf_read_known(PyObject *x, PyObject *const *name, Py_ssize_t limit,
                                       double *row) {
    Py_ssize_t i = 0;
#ifdef SF_SEES_ITEMS
    Py_ssize_t n, step;
    PyObject *const *item = sf_items(x, &n, &step);
    if (n > limit) n = limit;
    for (; i < n && item[0] == name[i] && Py_IS_TYPE(item[1], &PyFloat_Type); i++, item += step)
        row[i] = PyFloat_AS_DOUBLE(item[1]);
#else
    (void)x, (void)name, (void)limit, (void)row;
#endif
    return i;
}

/* Take a built-in number; returns 0 if `value` is none, or one that no double can hold. */
static inline int sf_plain_number(PyObject *value, double *number) {
    if (PyFloat_CheckExact(value) || PyFloat_Check(value)) {
        *number = PyFloat_AS_DOUBLE(value);
        return 1;
    }
    if (!PyLong_Check(value)) return 0;
    *number = PyLong_AsDouble(value);
    if (*number != -1.0 || !PyErr_Occurred()) return 1;
    PyErr_Clear();
    return 0;
}

/* Write a dict's names and values, for which there is room. Returns how many; -1 if a value is no
 * built-in number. The names are borrowed: while they are in use no code of anybody may run. */
static inline Py_ssize_t sf_read_items(PyObject *x, PyObject **name, double *value) {
    Py_ssize_t length = 0;
    PyObject *key, *number;
#ifdef SF_SEES_ITEMS
    Py_ssize_t n, step;
    PyObject *const *item = sf_items(x, &n, &step);
    for (Py_ssize_t i = 0; i < n; i++, item += step) {
        if (!item[1]) continue;
        name[length] = item[0];
        if (!sf_plain_number(item[1], value + length)) return -1;
        length++;
    }
    if (step) return length;
#endif
    Py_ssize_t position = 0;
    while (PyDict_Next(x, &position, &key, &number)) {
        name[length] = key;
        if (!sf_plain_number(number, value + length)) return -1;
        length++;
    }
    return length;
}

#endif
