/*
 * What the parts of the C module share. Only _native.c knows Python; _native_crc.c, _native_pages.c and _native_wal.c
 * take pointers and lengths, hold no state but tables, and may run in many threads at once.
 *
 * Each has a Python twin that must give the same answer for every input: crc.py, page_numpy.py, walscan_python.py; names
 * and rules are explained there. Input is hostile: lengths read from it are checked before they are used, and values are
 * read once (another thread may write to the buffer meanwhile). Integers are in the machine's byte order, as PostgreSQL
 * writes them.
 */
#ifndef PGRECALL_NATIVE_H
#define PGRECALL_NATIVE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Versions of the hot loops for newer processors, chosen when the module is loaded. */
#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86_TARGETS 1
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define MIN(a, b) ((a) < (b) ? (a) : (b))

INLINE uint16_t
u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE uint32_t
u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE uint64_t
u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Call both once before anything else. */
void crc_prepare(void);
void pages_prepare(void);

/* CRC-32C without the inversions before and after. */
extern uint32_t (*crc_update)(uint32_t crc, const uint8_t *p, size_t length);

typedef struct {
    uint64_t bad_checksums, new_pages, changed, bad_headers, max_lsn;
} PageCounts;

int is_page_size(ptrdiff_t size);
int is_zero(const uint8_t *p, size_t length);
uint32_t page_checksum(const uint8_t *page, size_t size, uint32_t block);
void scan_pages(const uint8_t *pages, size_t count, size_t size, uint64_t first_block, int verify, uint64_t since,
                uint8_t *flags, PageCounts *counts);

#define FRAGMENT_MAX_BYTES (64u << 10)
#define PREFIX_BYTES 2048u

typedef enum { STOP_FULL, STOP_SWITCHED, STOP_UNFINISHED, STOP_BROKEN, STOP_NO_MEMORY } Stop;

typedef struct {
    uint64_t lsn;
    uint32_t kind, length;
} EventHead; /* followed by its data in the arena */

/* One pass over a segment. Set the first four, zero the rest, call scan_wal, read the results, free(arena). */
typedef struct {
    const uint8_t *data;
    size_t size, page_size; /* size is a multiple of page_size, a power of two from 1024 to 65536 */
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
} WalScan;

void scan_wal(WalScan *scan);

#endif
