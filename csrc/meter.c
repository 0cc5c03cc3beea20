/* Where this process' time goes: see dn_api_params.h. One thread is followed. Others that call are
 * ignored: threads would be in several phases at once. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "dn_api.h"

enum { HELD = 256 /* spans, until they are written */, FLUSH = 20000000 /* ns */ };

static int64_t sums[DN_PHASES], handed_over; /* ns; bytes */
static int64_t since, fake = -1;             /* the beginning of the present phase */
static int phase = DN_COMPUTE;
static int owners;       /* how often a thread was chosen to be followed; others read it, too */
static __thread int own; /* this thread's number; it is followed while it is the last one */

static struct {
    int file, error, held;
    int64_t left, written_at; /* spans that may yet be written */
    dn_span spans[HELD];
} record = {.file = -1};

int64_t dn_meter_now(void) { return fake >= 0 ? fake : dn__nanoseconds(); }

static int is_followed(void) { return own && own == __atomic_load_n(&owners, __ATOMIC_RELAXED); }

void dn_meter_follow(void) {
    if (!owners) since = dn_meter_now();
    own = __atomic_add_fetch(&owners, 1, __ATOMIC_RELAXED);
}

/* ---- spans ---------------------------------------------------------------------------- */

static void write_spans(int64_t now) {
    const char *at = (const char *)record.spans;
    size_t bytes = (size_t)record.held * sizeof *record.spans;
    while (bytes && !record.error) {
        const ssize_t n = write(record.file, at, bytes);
        if (n < 0 && errno != EINTR) record.error = errno;
        if (n > 0) at += n, bytes -= (size_t)n;
    }
    record.held = 0;
    record.written_at = now;
    if (record.error) record.file = -1;
}

static void keep_span(int64_t now) {
    if (record.file < 0 || now == since) return;
    if (record.left-- <= 0) {
        write_spans(now);
        record.file = -1;
        return;
    }
    record.spans[record.held++] = (dn_span){since, now, phase};
    if (record.held == HELD || now - record.written_at > FLUSH) write_spans(now);
}

void dn_meter_record(int file, int64_t most) {
    record.file = file;
    record.left = most;
    record.error = record.held = 0;
    record.written_at = dn_meter_now();
}

/* ---- phases --------------------------------------------------------------------------- */

static void change(int to, int64_t now) {
    keep_span(now);
    sums[phase] += now - since;
    since = now;
    phase = to;
}

int dn_meter_flush(void) {
    const int64_t now = dn_meter_now();
    if (record.file >= 0 && is_followed()) {
        change(phase, now); /* the present span, too, as far as it has come */
        if (record.file >= 0) write_spans(now);
    }
    return record.error;
}

int dn_meter_switch(int to) {
    if (!is_followed()) return -1;
    const int before = phase;
    if (to != before && to >= 0) change(to, dn_meter_now());
    return before;
}

int dn_meter_wait(void) {
    if (!is_followed()) return -1;
    return phase == DN_COMPUTE ? dn_meter_switch(DN_AGREEMENT) : phase;
}

void dn_meter_hand_over(int64_t bytes) {
    __atomic_fetch_add(&handed_over, bytes, __ATOMIC_RELAXED); /* by any thread */
}

void dn_meter_read(dn_reading *out) {
    memcpy(out->nanoseconds, sums, sizeof sums);
    out->nanoseconds[phase] += dn_meter_now() - since;
    out->bytes = __atomic_load_n(&handed_over, __ATOMIC_RELAXED);
}

void dn_meter_pretend(int64_t now) {
    if (fake < 0 || now < 0) { /* one clock says nothing of the other's spans */
        memset(sums, 0, sizeof sums);
        since = now;
    }
    fake = now;
    if (now < 0) since = dn_meter_now();
}
