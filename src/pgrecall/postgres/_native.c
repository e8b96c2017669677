/* The Python side of the C module: limited API; arguments in, GIL released, results out. See _native.pyi. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <stdlib.h>

#include "_native.h"

static PyObject *
native_scan_pages(PyObject *module, PyObject *args)
{
    Py_buffer data, out;
    Py_ssize_t page_size;
    unsigned long long first_block, since;
    int verify;
    PageCounts counts = {0};
    PyObject *result = NULL;

    (void) module;
    if (!PyArg_ParseTuple(args, "y*nKpKw*:scan_pages", &data, &page_size, &first_block, &verify, &since, &out))
        return NULL;
    if (!is_page_size(page_size))
        PyErr_Format(PyExc_ValueError, "page size %zd", page_size);
    else if (out.len < data.len / page_size)
        PyErr_Format(PyExc_ValueError, "%zd pages do not fit %zd flags", data.len / page_size, out.len);
    else {
        Py_ssize_t count = data.len / page_size;

        Py_BEGIN_ALLOW_THREADS
        scan_pages(data.buf, (size_t) count, (size_t) page_size, first_block, verify, since, out.buf, &counts);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("(nKKKKK)", count, (unsigned long long) counts.bad_checksums,
                               (unsigned long long) counts.new_pages, (unsigned long long) counts.changed,
                               (unsigned long long) counts.bad_headers, (unsigned long long) counts.max_lsn);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *
native_page_checksum(PyObject *module, PyObject *args)
{
    Py_buffer page;
    unsigned long long block;
    PyObject *result = NULL;

    (void) module;
    if (!PyArg_ParseTuple(args, "y*K:page_checksum", &page, &block))
        return NULL;
    if (!is_page_size(page.len))
        PyErr_Format(PyExc_ValueError, "page of %zd bytes", page.len);
    else
        result = PyLong_FromUnsignedLong(page_checksum(page.buf, (size_t) page.len, (uint32_t) block));
    PyBuffer_Release(&page);
    return result;
}

static PyObject *
native_all_zero(PyObject *module, PyObject *args)
{
    Py_buffer data;
    int zero;

    (void) module;
    if (!PyArg_ParseTuple(args, "y*:all_zero", &data))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    zero = is_zero(data.buf, (size_t) data.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyBool_FromLong(zero);
}

static PyObject *
native_crc32c(PyObject *module, PyObject *args)
{
    Py_buffer data;
    unsigned long value = 0;
    uint32_t crc;

    (void) module;
    if (!PyArg_ParseTuple(args, "y*|k:crc32c", &data, &value))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    crc = ~crc_update(~(uint32_t) value, data.buf, (size_t) data.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(crc);
}

static PyObject *
fragment_object(int there, const uint8_t *data, uint32_t length)
{
    if (there)
        return PyBytes_FromStringAndSize((const char *) data, (Py_ssize_t) length);
    Py_INCREF(Py_None);
    return Py_None;
}

static PyObject *
events_object(const WalScan *scan)
{
    PyObject *list = PyList_New(0);

    for (size_t at = 0; list && at < scan->arena_used;) {
        EventHead head;
        PyObject *event;

        memcpy(&head, scan->arena + at, sizeof head);
        at += sizeof head;
        event = Py_BuildValue("(IKy#)", (unsigned int) head.kind, (unsigned long long) head.lsn,
                              (const char *) scan->arena + at, (Py_ssize_t) head.length);
        at += head.length;
        if (!event || PyList_Append(list, event) < 0)
            Py_CLEAR(list);
        Py_XDECREF(event);
    }
    return list;
}

static PyObject *
scan_object(const WalScan *scan)
{
    int whole = scan->stop == STOP_FULL || scan->stop == STOP_SWITCHED;
    PyObject *head = fragment_object(scan->has_head, scan->head, scan->head_bytes);
    PyObject *tail = fragment_object(scan->has_tail, scan->tail, scan->tail_bytes);
    PyObject *events = events_object(scan);

    if (!head || !tail || !events) {
        Py_XDECREF(head);
        Py_XDECREF(tail);
        Py_XDECREF(events);
        return NULL;
    }
    return Py_BuildValue(
        "(iIIKKKKKKLLINNN)", (int) scan->stop, (unsigned int) scan->magic, (unsigned int) scan->timeline,
        (unsigned long long) (scan->start + (whole ? scan->size : scan->end)),
        (unsigned long long) (scan->start + scan->end), (unsigned long long) scan->first_record,
        (unsigned long long) scan->first_prev, (unsigned long long) scan->last_record,
        (unsigned long long) scan->records, (long long) scan->earliest, (long long) scan->latest,
        (unsigned int) scan->head_length, head, tail, events);
}

static PyObject *
native_scan_wal(PyObject *module, PyObject *args)
{
    Py_buffer data;
    unsigned long long start;
    Py_ssize_t page_size;
    PyObject *result = NULL;
    WalScan *scan = NULL;

    (void) module;
    if (!PyArg_ParseTuple(args, "y*Kn:scan_wal", &data, &start, &page_size))
        return NULL;
    if (page_size < 1024 || page_size > 65536 || (page_size & (page_size - 1)))
        PyErr_Format(PyExc_ValueError, "WAL page size %zd", page_size);
    else if (data.len == 0 || data.len % page_size || data.len > 1 << 30 || start >= -(unsigned long long) data.len)
        PyErr_Format(PyExc_ValueError, "%zd bytes of WAL at %llu", data.len, start);
    else if ((scan = calloc(1, sizeof *scan)) == NULL)
        PyErr_NoMemory();
    else {
        scan->data = data.buf;
        scan->size = (size_t) data.len;
        scan->page_size = (size_t) page_size;
        scan->start = start;
        Py_BEGIN_ALLOW_THREADS
        scan_wal(scan);
        Py_END_ALLOW_THREADS
        result = scan->stop == STOP_NO_MEMORY ? PyErr_NoMemory() : scan_object(scan);
        free(scan->arena);
        free(scan);
    }
    PyBuffer_Release(&data);
    return result;
}

static int
native_exec(PyObject *module)
{
    (void) module;
    crc_prepare();
    pages_prepare();
    return 0;
}

static PyMethodDef native_methods[] = {
    {"scan_pages", native_scan_pages, METH_VARARGS, "Flags and counts of data pages."},
    {"page_checksum", native_page_checksum, METH_VARARGS, "The checksum of one page."},
    {"all_zero", native_all_zero, METH_VARARGS, "True if every byte is zero."},
    {"crc32c", native_crc32c, METH_VARARGS, "CRC-32C."},
    {"scan_wal", native_scan_wal, METH_VARARGS, "One pass over the records of a WAL segment."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot native_slots[] = {
    {Py_mod_exec, (void *) native_exec},
    {0, NULL},
};

static struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pgrecall.postgres._native",
    .m_doc = "Scans of data pages and WAL, and CRC-32C.",
    .m_methods = native_methods,
    .m_slots = native_slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&native_module);
}
