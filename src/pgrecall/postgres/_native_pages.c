/* Checksums, flags and LSNs of data pages. Layout: PostgreSQL storage/bufpage.h. Twin: page_numpy.py. */
#include "_native.h"

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

uint32_t
page_checksum(const uint8_t *page, size_t size, uint32_t block)
{
    return (page_hash(page, size) ^ block) % 65535 + 1;
}

int
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

int
is_page_size(ptrdiff_t size)
{
    return size >= 1024 && size <= 32768 && (size & (size - 1)) == 0;
}

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
        if (verify && page_checksum(page, size, block) != u16(page + PAGE_CHECKSUM_AT))
            flags |= BAD_CHECKSUM;
    }
    counts->bad_checksums += (flags & BAD_CHECKSUM) != 0;
    counts->new_pages += (flags & NEW_PAGE) != 0;
    counts->changed += (flags & CHANGED) != 0;
    counts->bad_headers += (flags & HEADER_BAD) != 0;
    return flags;
}

void
scan_pages(const uint8_t *pages, size_t count, size_t size, uint64_t first_block, int verify, uint64_t since,
           uint8_t *flags, PageCounts *counts)
{
    for (size_t i = 0; i < count; i++)
        flags[i] = look_at_page(pages + i * size, size, (uint32_t) (first_block + i), verify, since, counts);
}

void
pages_prepare(void)
{
#ifdef HAVE_X86_TARGETS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        page_hash = page_hash_avx2;
#endif
}
