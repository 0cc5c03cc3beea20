/* A handler of signals that is put off: see dn_api_params.h. A signal may come in any thread, also
 * while the one that puts off goes on; so what came is taken from its count by whoever calls. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>

#include "dn_api.h"

static const int SIGNALS[DN_SIGNALS] = {SIGINT, SIGTERM, SIGALRM, SIGHUP, SIGUSR1, SIGUSR2};

static void (*_Atomic deferred)(int); /* a handler reads it */
static atomic_int is_held, came[DN_SIGNALS];

int dn_signals_number(int i) { return SIGNALS[i]; }

int dn_signals_came(void) {
    int n = 0;
    for (int i = 0; i < DN_SIGNALS; i++) n += atomic_load(&came[i]);
    return n;
}

static void put_off(int number) {
    const int error = errno;
    for (int i = 0; i < DN_SIGNALS; i++)
        if (SIGNALS[i] == number) atomic_fetch_add(&came[i], 1);
    if (!atomic_load(&is_held) || dn_signals_came() > 1) dn_signals_release();
    errno = error;
}

int dn_signals_defer(int number) {
    struct sigaction action;
    if (sigaction(number, NULL, &action) || action.sa_flags & SA_SIGINFO ||
        action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)
        return 0;
    deferred = action.sa_handler;
    return 1;
}

/* Nobody is told that another handler was set: so each is looked at again. What stands in its place
 * stays there, and calls it at once where nothing is held. */
int dn_signals_hold(void) {
    if (!deferred) return 0;
    atomic_store(&is_held, 1);
    for (int i = 0; i < DN_SIGNALS; i++) {
        struct sigaction action;
        if (sigaction(SIGNALS[i], NULL, &action) || action.sa_handler != deferred) continue;
        action.sa_handler = put_off;
        sigaction(SIGNALS[i], &action, NULL);
    }
    return 1;
}

int dn_signals_are_held(void) { return atomic_load(&is_held); }

void dn_signals_release(void) {
    atomic_store(&is_held, 0);
    for (int i = 0; i < DN_SIGNALS; i++)
        if (atomic_exchange(&came[i], 0)) deferred(SIGNALS[i]);
}
