/* Memory that the ranks of a host share, on huge pages: on pages of 4 kB what lies anywhere in it,
 * as rows of tables do, is found by a walk through the system's tables nearly each time. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>

#include "arena.h"
#include "dn_api.h"

#if defined(__linux__) && !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25 /* Linux 6.1 has it; older headers do not */
#endif

int64_t dn_huge_page(void) { return DN_HUGE_PAGE; }

int dn_map_file(void *at, int file, int64_t bytes) {
    return mmap(at, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == at
               ? 0
               : errno;
}

void dn_on_huge_pages(void *at, int64_t bytes) {
#ifdef MADV_COLLAPSE
    /* whatever shmem_enabled says, but for "deny"; one by one, and some times, as it gives up at a
     * page that is in use */
    for (char *page = at; bytes > 0; page += DN_HUGE_PAGE, bytes -= DN_HUGE_PAGE) {
        int tries = 3, failed;
        do failed = madvise(page, DN_HUGE_PAGE, MADV_COLLAPSE);
        while (failed && errno == EAGAIN && --tries);
        if (failed && errno != EAGAIN && errno != EBUSY) return;
    }
#endif
    (void)at, (void)bytes;
}
