/*
 * Scans of data pages and WAL, and CRC-32C, for pgrecall.postgres. Limited API; the GIL is released in every scan.
 *
 * Each function has a Python twin that must give the same answer for every input: page_numpy.py, walscan_python.py,
 * crc.py; names and rules are explained there. Input is hostile: lengths read from it are checked before they are used,
 * and values are read once (another thread may write to the buffer meanwhile). Integers are in the machine's byte
 * order, as PostgreSQL writes them.
 */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Versions of the hot loops for newer processors, chosen when the module is loaded. */
#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86_TARGETS 1
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))

static uint16_t
u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint32_t
u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t
u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- CRC-32C ---------------------------------------------------------------------------------------------------- */

#define CRC_POLYNOMIAL 0x82F63B78u

static uint32_t crc_tables[8][256];

static void
crc_make_tables(void)
{
    for (uint32_t entry = 0; entry < 256; entry++) {
        uint32_t crc = entry;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ CRC_POLYNOMIAL : crc >> 1;
        crc_tables[0][entry] = crc;
    }
    for (int slice = 1; slice < 8; slice++)
        for (int entry = 0; entry < 256; entry++) {
            uint32_t before = crc_tables[slice - 1][entry];
            crc_tables[slice][entry] = before >> 8 ^ crc_tables[0][before & 0xFF];
        }
}

/* Slicing by 8 (Kounavis and Berry, 2005), reading bytes so that the order of the machine does not matter. */
static uint32_t
crc_update_plain(uint32_t crc, const uint8_t *p, size_t length)
{
    for (; length >= 8; p += 8, length -= 8) {
        uint32_t low = crc ^ ((uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24);
        crc = crc_tables[7][low & 0xFF] ^ crc_tables[6][low >> 8 & 0xFF] ^ crc_tables[5][low >> 16 & 0xFF]
            ^ crc_tables[4][low >> 24] ^ crc_tables[3][p[4]] ^ crc_tables[2][p[5]] ^ crc_tables[1][p[6]]
            ^ crc_tables[0][p[7]];
    }
    for (; length > 0; p++, length--)
        crc = crc_tables[0][(crc ^ *p) & 0xFF] ^ crc >> 8;
    return crc;
}

#ifdef HAVE_X86_TARGETS
__attribute__((target("sse4.2"))) static uint32_t
crc_update_sse42(uint32_t crc, const uint8_t *p, size_t length)
{
    uint64_t wide = crc;
    for (; length >= 8; p += 8, length -= 8)
        wide = __builtin_ia32_crc32di(wide, u64(p));
    crc = (uint32_t) wide;
    for (; length > 0; p++, length--)
        crc = __builtin_ia32_crc32qi(crc, *p);
    return crc;
}
#endif

static uint32_t (*crc_update)(uint32_t crc, const uint8_t *p, size_t length) = crc_update_plain;

/* ---- data pages ------------------------------------------------------------------------------------------------- */

enum { BAD_CHECKSUM = 1, NEW_PAGE = 2, CHANGED = 4, HEADER_BAD = 8 };

#define LANES 32
#define ROW_BYTES (LANES * 4)
#define FNV_PRIME 16777619u
#define PAGE_CHECKSUM_AT 8
#define VALID_PD_FLAGS 0x0007

static const uint32_t lane_seeds[LANES] = {
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
};

INLINE void
mix_row(uint32_t sums[LANES], const uint32_t row[LANES])
{
    for (int lane = 0; lane < LANES; lane++) {
        uint32_t value = sums[lane] ^ row[lane];
        sums[lane] = value * FNV_PRIME ^ value >> 17;
    }
}

INLINE uint32_t
page_hash_body(const uint8_t *page, size_t size)
{
    uint32_t sums[LANES], row[LANES], folded = 0;

    memcpy(sums, lane_seeds, sizeof sums);
    memcpy(row, page, ROW_BYTES);
    memset((uint8_t *) row + PAGE_CHECKSUM_AT, 0, 2);
    mix_row(sums, row);
    for (size_t at = ROW_BYTES; at < size; at += ROW_BYTES) {
        memcpy(row, page + at, ROW_BYTES);
        mix_row(sums, row);
    }
    memset(row, 0, sizeof row);
    mix_row(sums, row);
    mix_row(sums, row);
    for (int lane = 0; lane < LANES; lane++)
        folded ^= sums[lane];
    return folded;
}

static uint32_t
page_hash_plain(const uint8_t *page, size_t size)
{
    return page_hash_body(page, size);
}

#ifdef HAVE_X86_TARGETS
__attribute__((target("avx2"))) static uint32_t
page_hash_avx2(const uint8_t *page, size_t size)
{
    return page_hash_body(page, size);
}
#endif

static uint32_t (*page_hash)(const uint8_t *page, size_t size) = page_hash_plain;

static uint32_t
checksum_of(const uint8_t *page, size_t size, uint32_t block)
{
    return (page_hash(page, size) ^ block) % 65535 + 1;
}

static int
is_zero(const uint8_t *p, size_t length)
{
    for (; length >= 1024; p += 1024, length -= 1024) {
        uint64_t seen = 0;
        for (size_t at = 0; at < 1024; at += 8)
            seen |= u64(p + at);
        if (seen)
            return 0;
    }
    for (; length > 0; p++, length--)
        if (*p)
            return 0;
    return 1;
}

static int
is_page_size(Py_ssize_t size)
{
    return size >= 1024 && size <= 32768 && (size & (size - 1)) == 0;
}

typedef struct {
    uint64_t bad_checksums, new_pages, changed, bad_headers, max_lsn;
} PageCounts;

static uint8_t
look_at_page(const uint8_t *page, size_t size, uint32_t block, int verify, uint64_t since, PageCounts *counts)
{
    uint8_t flags = 0;
    uint64_t lsn = (uint64_t) u32(page) << 32 | u32(page + 4);
    uint16_t lower = u16(page + 12), upper = u16(page + 14), special = u16(page + 16);

    if (lsn > counts->max_lsn)
        counts->max_lsn = lsn;
    if (lsn >= since || lsn == 0)
        flags |= CHANGED;
    if (upper == 0)
        flags |= is_zero(page, size) ? NEW_PAGE : HEADER_BAD;
    else {
        if ((u16(page + 10) & ~VALID_PD_FLAGS) || lower > upper || upper > special || special > size || special % 8)
            flags |= HEADER_BAD;
        if (verify && checksum_of(page, size, block) != u16(page + PAGE_CHECKSUM_AT))
            flags |= BAD_CHECKSUM;
    }
    counts->bad_checksums += (flags & BAD_CHECKSUM) != 0;
    counts->new_pages += (flags & NEW_PAGE) != 0;
    counts->changed += (flags & CHANGED) != 0;
    counts->bad_headers += (flags & HEADER_BAD) != 0;
    return flags;
}

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
        for (Py_ssize_t i = 0; i < count; i++)
            ((uint8_t *) out.buf)[i] = look_at_page((const uint8_t *) data.buf + i * page_size, (size_t) page_size,
                                                    (uint32_t) (first_block + (uint64_t) i), verify, since, &counts);
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
        result = PyLong_FromUnsignedLong(checksum_of(page.buf, (size_t) page.len, (uint32_t) block));
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

/* ---- WAL -------------------------------------------------------------------------------------------------------- */

#define MAGIC_FAMILY 0xD1
enum { FIRST_IS_CONTRECORD = 1, LONG_HEADER = 2, FIRST_IS_OVERWRITE = 8, ALL_FLAGS = 15 };
enum { SHORT_HEADER_BYTES = 24, LONG_HEADER_BYTES = 40, RECORD_HEADER_BYTES = 24, RECORD_CRC_AT = 20 };
#define RECORD_MAX_BYTES 0x3FFFFFFFu
#define FRAGMENT_MAX_BYTES (64u << 10)
#define EVENT_MAX_BYTES 1100u
#define PREFIX_BYTES 2048u
#define MAIN_DATA_MAX_AT 512u

enum { RM_XLOG = 0, RM_XACT = 1, RM_TABLESPACE = 5 };
enum { XLOG_SWITCH = 0x40, XLOG_PARAMETER_CHANGE = 0x60, XLOG_RESTORE_POINT = 0x70, XLOG_OVERWRITE_CONTRECORD = 0xD0 };
enum { RESTORE_POINT_BYTES = 72, PARAMETER_CHANGE_BYTES = 26 };
enum { ID_DATA_SHORT = 255, ID_DATA_LONG = 254, ID_ORIGIN = 253, ID_TOPLEVEL_XID = 252 };

#define TIME_MIN INT64_C(-63082281600000000)
#define TIME_MAX INT64_C(252455615999999999)
#define NO_TIME INT64_MIN

typedef enum { STOP_FULL, STOP_SWITCHED, STOP_UNFINISHED, STOP_BROKEN, STOP_NO_MEMORY } Stop;
enum { EVENT_RESTORE_POINT = 1, EVENT_TABLESPACE_CREATE = 2, EVENT_PARAMETER_CHANGE = 3 };

/* How reading on ends: at a place, beyond the data, at a page that declares the record lost, or for good (scan->stop). */
typedef enum { AT, BEYOND, ABORTED, STOPPED } Outcome;

typedef struct {
    uint64_t lsn;
    uint32_t kind, length;
} EventHead; /* followed by its data in the arena */

typedef struct {
    const uint8_t *data;
    size_t size, page_size;
    uint64_t start;

    Stop stop;
    uint16_t magic;
    uint32_t timeline, newest_timeline;
    size_t end;
    uint64_t first_record, first_prev, last_record, last_whole, records;
    int64_t earliest, latest;
    int overwrites;
    uint32_t head_length, head_bytes, tail_bytes;
    int has_head, has_tail;

    uint8_t *arena;
    size_t arena_used, arena_size;

    uint8_t prefix[PREFIX_BYTES], head[FRAGMENT_MAX_BYTES], tail[FRAGMENT_MAX_BYTES];
} Scan;

typedef struct {
    size_t header;
    uint16_t flags;
    uint32_t rest;
} WalPage;

typedef struct {
    uint64_t prev;
    uint8_t info, rmid;
    uint32_t main_at, main_length;
} Record;

static size_t
aligned(size_t offset)
{
    return (offset + 7) & ~(size_t) 7;
}

static Outcome
stop_for(Scan *scan, Stop why)
{
    scan->stop = why;
    return STOPPED;
}

/* The header of the page at offset, which is a multiple of the page size below scan->size. */
static Outcome
read_page(Scan *scan, size_t offset, WalPage *page)
{
    const uint8_t *p = scan->data + offset;
    uint16_t magic = u16(p);
    uint32_t timeline = u32(p + 4);
    uint64_t address = u64(p + 8);

    page->flags = u16(p + 2);
    page->rest = u32(p + 16);
    if (magic == 0 && address == 0)
        return stop_for(scan, STOP_UNFINISHED);
    if (offset == 0) {
        if (magic >> 8 != MAGIC_FAMILY || !(page->flags & LONG_HEADER) || u32(p + 36) != scan->page_size)
            return stop_for(scan, STOP_BROKEN);
        scan->magic = magic;
        scan->timeline = timeline;
    }
    if (magic != scan->magic || (page->flags & ~ALL_FLAGS) || address != scan->start + offset || timeline == 0
        || timeline < scan->newest_timeline)
        return stop_for(scan, STOP_BROKEN);
    scan->newest_timeline = timeline;
    page->header = page->flags & LONG_HEADER ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES;
    return AT;
}

/*
 * Walk over length bytes of a record from offset on, skipping page headers. AT: *end is where they end; BEYOND: *end is
 * how many of them there are. Fills the prefix and the CRC of what follows the record's header, where asked.
 */
static Outcome
walk(Scan *scan, size_t offset, uint32_t length, uint8_t *prefix, uint32_t *crc, size_t *end)
{
    size_t done = 0;

    for (;;) {
        size_t room = scan->page_size - (offset & (scan->page_size - 1));
        size_t take = MIN(room, length - done);
        const uint8_t *p = scan->data + offset;
        WalPage page;

        if (prefix && done < PREFIX_BYTES)
            memcpy(prefix + done, p, MIN(take, PREFIX_BYTES - done));
        if (crc && done + take > RECORD_HEADER_BYTES) {
            size_t skip = done < RECORD_HEADER_BYTES ? RECORD_HEADER_BYTES - done : 0;
            *crc = crc_update(*crc, p + skip, take - skip);
        }
        offset += take;
        done += take;
        if (done == length) {
            *end = offset;
            return AT;
        }
        if (offset == scan->size) {
            *end = done;
            return BEYOND;
        }
        if (read_page(scan, offset, &page) == STOPPED)
            return STOPPED;
        if (!(page.flags & FIRST_IS_CONTRECORD)) {
            *end = offset;
            return page.flags & FIRST_IS_OVERWRITE ? ABORTED : stop_for(scan, STOP_BROKEN);
        }
        if (page.rest != length - done)
            return stop_for(scan, STOP_BROKEN);
        offset += page.header;
    }
}

/* Copy what walk() has just walked over, at most FRAGMENT_MAX_BYTES, without page headers. */
static uint32_t
copy_fragment(const Scan *scan, size_t offset, size_t length, uint8_t *out)
{
    size_t done = 0;

    while (done < length && offset < scan->size) {
        size_t room = scan->page_size - (offset & (scan->page_size - 1));
        size_t take = MIN(room, length - done);

        memcpy(out + done, scan->data + offset, take);
        done += take;
        offset += take;
        if (done < length && offset < scan->size)
            offset += u16(scan->data + offset + 2) & LONG_HEADER ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES;
    }
    return (uint32_t) done;
}

static Record
parse_record(const uint8_t *prefix, uint32_t total)
{
    Record record = {u64(prefix + 8), prefix[16], prefix[17], 0, 0};
    uint32_t known = MIN(total, PREFIX_BYTES), at = RECORD_HEADER_BYTES;

    while (at < known) {
        uint32_t main_at, length;

        if (prefix[at] == ID_ORIGIN) {
            at += 3;
            continue;
        }
        if (prefix[at] == ID_TOPLEVEL_XID) {
            at += 5;
            continue;
        }
        if (prefix[at] == ID_DATA_SHORT && at + 2 <= known) {
            main_at = at + 2;
            length = prefix[at + 1];
        }
        else if (prefix[at] == ID_DATA_LONG && at + 5 <= known) {
            main_at = at + 5;
            length = u32(prefix + at + 1);
        }
        else
            break;
        if (main_at <= MAIN_DATA_MAX_AT && (uint64_t) main_at + length == total) {
            record.main_at = main_at;
            record.main_length = length;
        }
        break;
    }
    return record;
}

static int
is_xlog(const Record *record, uint8_t info)
{
    return record->rmid == RM_XLOG && (record->info & 0xF0) == info;
}

static Outcome
add_event(Scan *scan, uint32_t kind, uint64_t lsn, const uint8_t *data, uint32_t length)
{
    EventHead head = {lsn, kind, MIN(length, EVENT_MAX_BYTES)};

    if (scan->arena_size - scan->arena_used < sizeof head + head.length) {
        size_t size = scan->arena_size * 2 + 4096;
        uint8_t *grown = realloc(scan->arena, size);

        if (!grown)
            return stop_for(scan, STOP_NO_MEMORY);
        scan->arena = grown;
        scan->arena_size = size;
    }
    memcpy(scan->arena + scan->arena_used, &head, sizeof head);
    memcpy(scan->arena + scan->arena_used + sizeof head, data, head.length);
    scan->arena_used += sizeof head + head.length;
    return AT;
}

static void
note_time(Scan *scan, const Record *record)
{
    uint8_t operation = record->info & 0x70;
    int64_t moment;

    if (record->rmid != RM_XACT || record->main_length < 8
        || (operation != 0x00 && operation != 0x20 && operation != 0x30 && operation != 0x40))
        return;
    moment = (int64_t) u64(scan->prefix + record->main_at);
    if (moment < TIME_MIN || moment > TIME_MAX)
        return;
    if (scan->earliest == NO_TIME || moment < scan->earliest)
        scan->earliest = moment;
    if (moment > scan->latest)
        scan->latest = moment;
}

static Outcome
note(Scan *scan, const Record *record, uint64_t lsn)
{
    const uint8_t *main_data = scan->prefix + record->main_at;

    if (!scan->first_record) {
        scan->first_record = lsn;
        scan->first_prev = record->prev;
        if (scan->overwrites && is_xlog(record, XLOG_OVERWRITE_CONTRECORD) && record->main_length >= 8)
            scan->first_prev = u64(main_data);
    }
    scan->last_record = scan->last_whole = lsn;
    scan->records++;
    note_time(scan, record);
    if (is_xlog(record, XLOG_RESTORE_POINT) && record->main_length >= RESTORE_POINT_BYTES)
        return add_event(scan, EVENT_RESTORE_POINT, lsn, main_data, record->main_length);
    if (is_xlog(record, XLOG_PARAMETER_CHANGE) && record->main_length >= PARAMETER_CHANGE_BYTES)
        return add_event(scan, EVENT_PARAMETER_CHANGE, lsn, main_data, record->main_length);
    if (record->rmid == RM_TABLESPACE && (record->info & 0xF0) == 0 && record->main_length >= 4)
        return add_event(scan, EVENT_TABLESPACE_CREATE, lsn, main_data, record->main_length);
    return AT;
}

static Outcome
check_prev(Scan *scan, uint64_t prev, uint64_t lsn)
{
    if (prev >= lsn || (scan->last_whole && prev != scan->last_whole))
        return stop_for(scan, STOP_BROKEN);
    return AT;
}

/* The beginning of a record that ends in the next segment: `begun` bytes of it are here. */
static Outcome
keep_tail(Scan *scan, size_t cursor, size_t begun)
{
    uint64_t lsn = scan->start + cursor;

    if (begun >= 16) {
        uint64_t prev = u64(scan->prefix + 8);

        if (check_prev(scan, prev, lsn) == STOPPED)
            return STOPPED;
        if (!scan->first_record)
            scan->first_prev = prev;
    }
    if (!scan->first_record)
        scan->first_record = lsn;
    scan->last_record = lsn;
    if (begun <= FRAGMENT_MAX_BYTES) {
        scan->tail_bytes = copy_fragment(scan, cursor, begun, scan->tail);
        scan->has_tail = 1;
    }
    return stop_for(scan, STOP_FULL);
}

/* True if all there is here is the end of a 24-byte XLOG_SWITCH record that began in the segment before. */
static int
head_is_switch(const Scan *scan, size_t cursor)
{
    const uint8_t *last = scan->head + scan->head_length - 8;

    if (scan->records || cursor != scan->end || !scan->has_head || (scan->head_length != 8 && scan->head_length != 16))
        return 0;
    return (last[0] & 0xF0) == XLOG_SWITCH && last[1] == RM_XLOG && u16(last + 2) == 0;
}

/* Read the record at *cursor, or behind the page header there; move *cursor to the next one. */
static Outcome
read_record(Scan *scan, size_t *cursor)
{
    uint32_t total, crc = 0xFFFFFFFFu;
    size_t end = 0;
    Record record;
    Outcome outcome;

    if ((*cursor & (scan->page_size - 1)) == 0) {
        WalPage page;

        if (read_page(scan, *cursor, &page) == STOPPED)
            return STOPPED;
        if (page.flags & FIRST_IS_CONTRECORD)
            return stop_for(scan, STOP_BROKEN);
        *cursor += page.header;
    }
    total = u32(scan->data + *cursor);
    if (total == 0)
        return stop_for(scan, head_is_switch(scan, *cursor) ? STOP_SWITCHED : STOP_UNFINISHED);
    if (total < RECORD_HEADER_BYTES || total > RECORD_MAX_BYTES)
        return stop_for(scan, STOP_BROKEN);
    outcome = walk(scan, *cursor, total, scan->prefix, &crc, &end);
    if (outcome == BEYOND)
        return keep_tail(scan, *cursor, end);
    if (outcome == ABORTED)
        *cursor = end;
    if (outcome != AT)
        return outcome;
    record = parse_record(scan->prefix, total);
    if (check_prev(scan, record.prev, scan->start + *cursor) == STOPPED)
        return STOPPED;
    if (~crc_update(crc, scan->prefix, RECORD_CRC_AT) != u32(scan->prefix + RECORD_CRC_AT))
        return stop_for(scan, STOP_BROKEN);
    if (note(scan, &record, scan->start + *cursor) == STOPPED)
        return STOPPED;
    *cursor = scan->end = aligned(end);
    return is_xlog(&record, XLOG_SWITCH) ? stop_for(scan, STOP_SWITCHED) : AT;
}

/* Pass the rest of a record that began in a segment before; *cursor is where the first one begins. */
static Outcome
read_head(Scan *scan, size_t *cursor)
{
    WalPage page;
    size_t end = 0;
    Outcome outcome;

    if (read_page(scan, 0, &page) == STOPPED)
        return STOPPED;
    *cursor = page.header;
    scan->overwrites = (page.flags & FIRST_IS_OVERWRITE) != 0;
    if (!(page.flags & FIRST_IS_CONTRECORD))
        return AT;
    scan->head_length = page.rest;
    if (page.rest == 0)
        return stop_for(scan, STOP_BROKEN);
    outcome = walk(scan, page.header, page.rest, NULL, NULL, &end);
    if (outcome == BEYOND)
        return stop_for(scan, STOP_FULL);
    if (outcome == ABORTED) {
        *cursor = end;
        return AT;
    }
    if (outcome == AT) {
        if (page.rest <= FRAGMENT_MAX_BYTES) {
            scan->head_bytes = copy_fragment(scan, page.header, page.rest, scan->head);
            scan->has_head = 1;
        }
        *cursor = scan->end = aligned(end);
    }
    return outcome;
}

static void
scan_segment(Scan *scan)
{
    size_t cursor = 0;

    scan->earliest = scan->latest = NO_TIME;
    scan->stop = STOP_FULL;
    if (read_head(scan, &cursor) == STOPPED)
        return;
    while (cursor < scan->size)
        if (read_record(scan, &cursor) == STOPPED)
            return;
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
events_object(const Scan *scan)
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
scan_object(const Scan *scan)
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
    Scan *scan = NULL;

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
        scan_segment(scan);
        Py_END_ALLOW_THREADS
        result = scan->stop == STOP_NO_MEMORY ? PyErr_NoMemory() : scan_object(scan);
        free(scan->arena);
        free(scan);
    }
    PyBuffer_Release(&data);
    return result;
}

/* ---- module ----------------------------------------------------------------------------------------------------- */

static int
native_exec(PyObject *module)
{
    (void) module;
    crc_make_tables();
#ifdef HAVE_X86_TARGETS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2"))
        crc_update = crc_update_sse42;
    if (__builtin_cpu_supports("avx2"))
        page_hash = page_hash_avx2;
#endif
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
