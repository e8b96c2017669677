/*
 * One pass over the records of a WAL segment. Layouts: PostgreSQL access/xlog_internal.h, access/xlogrecord.h,
 * access/xact.h, commands/tablespace.h; what is valid: access/transam/xlogreader.c. Twin: walscan_python.py.
 */
#include "_native.h"

#include <stdlib.h>

#define MAGIC_FAMILY 0xD1
enum { FIRST_IS_CONTRECORD = 1, LONG_HEADER = 2, FIRST_IS_OVERWRITE = 8, ALL_FLAGS = 15 };
enum { SHORT_HEADER_BYTES = 24, LONG_HEADER_BYTES = 40, RECORD_HEADER_BYTES = 24, RECORD_CRC_AT = 20 };
#define RECORD_MAX_BYTES 0x3FFFFFFFu
#define EVENT_MAX_BYTES 1100u
#define MAIN_DATA_MAX_AT 512u

enum { RM_XLOG = 0, RM_XACT = 1, RM_TABLESPACE = 5 };
enum { XLOG_SWITCH = 0x40, XLOG_PARAMETER_CHANGE = 0x60, XLOG_RESTORE_POINT = 0x70, XLOG_OVERWRITE_CONTRECORD = 0xD0 };
enum { RESTORE_POINT_BYTES = 72, PARAMETER_CHANGE_BYTES = 26 };
enum { ID_DATA_SHORT = 255, ID_DATA_LONG = 254, ID_ORIGIN = 253, ID_TOPLEVEL_XID = 252 };

#define TIME_MIN INT64_C(-63082281600000000)
#define TIME_MAX INT64_C(252455615999999999)
#define NO_TIME INT64_MIN

enum { EVENT_RESTORE_POINT = 1, EVENT_TABLESPACE_CREATE = 2, EVENT_PARAMETER_CHANGE = 3 };

/* How reading on ends: at a place, beyond the data, at a page that declares the record lost, or for good (scan->stop). */
typedef enum { AT, BEYOND, ABORTED, STOPPED } Outcome;

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
stop_for(WalScan *scan, Stop why)
{
    scan->stop = why;
    return STOPPED;
}

/* The header of the page at offset, which is a multiple of the page size below scan->size. */
static Outcome
read_page(WalScan *scan, size_t offset, WalPage *page)
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
walk(WalScan *scan, size_t offset, uint32_t length, uint8_t *prefix, uint32_t *crc, size_t *end)
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
copy_fragment(const WalScan *scan, size_t offset, size_t length, uint8_t *out)
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
add_event(WalScan *scan, uint32_t kind, uint64_t lsn, const uint8_t *data, uint32_t length)
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
note_time(WalScan *scan, const Record *record)
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
note(WalScan *scan, const Record *record, uint64_t lsn)
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
check_prev(WalScan *scan, uint64_t prev, uint64_t lsn)
{
    if (prev >= lsn || (scan->last_whole && prev != scan->last_whole))
        return stop_for(scan, STOP_BROKEN);
    return AT;
}

/* The beginning of a record that ends in the next segment: `begun` bytes of it are here. */
static Outcome
keep_tail(WalScan *scan, size_t cursor, size_t begun)
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
head_is_switch(const WalScan *scan, size_t cursor)
{
    const uint8_t *last = scan->head + scan->head_length - 8;

    if (scan->records || cursor != scan->end || !scan->has_head || (scan->head_length != 8 && scan->head_length != 16))
        return 0;
    return (last[0] & 0xF0) == XLOG_SWITCH && last[1] == RM_XLOG && u16(last + 2) == 0;
}

/* Read the record at *cursor, or behind the page header there; move *cursor to the next one. */
static Outcome
read_record(WalScan *scan, size_t *cursor)
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
read_head(WalScan *scan, size_t *cursor)
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

void
scan_wal(WalScan *scan)
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
