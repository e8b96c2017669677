/* CRC-32C (Castagnoli), as PostgreSQL uses it for pg_control and WAL records. Twin: crc.py. */
#include "_native.h"

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

/* Clang made the instruction a feature of its own in 14. */
#if defined(HAVE_X86_TARGETS) && (!defined(__clang__) || __clang_major__ >= 14)
#define HAVE_CRC_INSTRUCTION 1
#ifdef __clang__
#define CRC_TARGET __attribute__((target("sse4.2,crc32")))
#else
#define CRC_TARGET __attribute__((target("sse4.2")))
#endif

CRC_TARGET static uint32_t
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

uint32_t (*crc_update)(uint32_t crc, const uint8_t *p, size_t length) = crc_update_plain;

void
crc_prepare(void)
{
    crc_make_tables();
#ifdef HAVE_CRC_INSTRUCTION
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2"))
        crc_update = crc_update_sse42;
#endif
}
