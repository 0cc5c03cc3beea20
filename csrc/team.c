/* The ranks of one host, through memory that they share: reports, and an update's exchange in one call.
 *
 * Of a small model's step an exchange in Python is several hundredths: after a backward its code and data are no longer in the caches. So an
 * update that is like the last one, as nearly all are, is done here; of any other the reports go to Python, which can do all. This knows
 * parameters, and what was learnt; when an update may be like the last one, and what reports mean, is Python's business.
 *
 * Each rank has a line that only it writes: how often it has spoken. Its messages lie in two places, in turn: a message is overwritten when its
 * rank speaks the next but one time, and that is after all have spoken since, so that they have read it. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"
#include "params.h"

enum { LINE = 64, LOOKS = 64 /* between two looks at the clock */ };

struct dn_team {
    int ranks, rank;
    int64_t most;                 /* bytes of a message, a multiple of LINE */
    char *memory;
    int64_t spoken;               /* how often this rank has */
    enum { TO_SAY, TO_HEAR, TO_MEET } stage;
    /* what was learnt; n_shares < 0: nothing */
    int n_dense, n_tables, n_shares;
    uint8_t *filled;              /* (rank, dense parameter) */
    int32_t *rows;                /* (rank, table): of the present update */
    dn_team_share *shares;
    dn_team_window *windows;
    double *factors;              /* of each rank */
};

/* ---- reports ------------------------------------------------------------------------------------------------------- */

typedef struct layout { size_t frozen, settled, weight, rows, filled, size; } layout;
static layout layout_of(int64_t n_head, int n_dense, int n_tables) {
    layout l = {.frozen = (size_t)n_head};
    l.settled = l.frozen + (size_t)n_dense + (size_t)n_tables;
    l.weight = l.settled + (size_t)n_tables;
    l.rows = l.weight + sizeof(double);
    l.filled = l.rows + (size_t)n_tables * sizeof(int32_t);
    l.size = l.filled + (size_t)n_dense;
    return l;
}

void dn_report(const void *head, int64_t n_head, double weight, int n_dense, int n_tables, dn_param *const *params, uint8_t *report) {
    const layout l = layout_of(n_head, n_dense, n_tables);
    memcpy(report, head, (size_t)n_head);
    memcpy(report + l.weight, &weight, sizeof weight);
    for (int k = 0; k < n_dense + n_tables; k++) report[l.frozen + (size_t)k] = !params[k]->updated;
    for (int k = 0; k < n_tables; k++) {
        const dn_param *table = params[n_dense + k];
        const int32_t touched = (int32_t)table->n_touched;
        report[l.settled + (size_t)k] = table->factor == 1;
        memcpy(report + l.rows + (size_t)k * sizeof touched, &touched, sizeof touched);
    }
    for (int k = 0; k < n_dense; k++) report[l.filled + (size_t)k] = !params[k]->empty;
}

static double weight_in(const uint8_t *report, const layout *l) {
    double weight;
    memcpy(&weight, report + l->weight, sizeof weight);
    return weight;
}
static int32_t rows_in(const uint8_t *report, const layout *l, int table) {
    int32_t rows;
    memcpy(&rows, report + l->rows + (size_t)table * sizeof rows, sizeof rows);
    return rows;
}

/* ---- speaking and hearing ------------------------------------------------------------------------------------------- */

static int64_t stride(const dn_team *team) { return LINE + 2 * team->most; }
static int64_t in_lines(int64_t n) { return (n + LINE - 1) / LINE * LINE; }
int64_t dn_team_bytes(int ranks, int64_t most) { return ranks * (LINE + 2 * in_lines(most)); }

dn_team *dn_team_new(int ranks, int rank, void *memory, int64_t most) {
    dn_team *team = calloc(1, sizeof *team);
    double *factors = malloc((size_t)ranks * sizeof *factors);
    if (!team || !factors) {
        free(team);
        free(factors);
        return NULL;
    }
    *team = (dn_team){.ranks = ranks, .rank = rank, .most = in_lines(most), .memory = memory, .n_shares = -1, .factors = factors};
    return team;
}

void dn_team_forget(dn_team *team) {
    free(team->filled);
    free(team->rows);
    free(team->shares);
    free(team->windows);
    team->filled = NULL;
    team->rows = NULL;
    team->shares = NULL;
    team->windows = NULL;
    team->n_shares = -1;
}

void dn_team_free(dn_team *team) {
    if (!team) return;
    dn_team_forget(team);
    free(team->factors);
    free(team);
}

static int64_t *counter_of(const dn_team *team, int rank) { return (int64_t *)(team->memory + rank * stride(team)); }
static uint8_t *message_of(const dn_team *team, int rank, int64_t number) {
    return (uint8_t *)team->memory + rank * stride(team) + LINE + (number & 1) * team->most;
}
const uint8_t *dn_team_said(dn_team *team, int rank) { return message_of(team, rank, team->spoken); }

static void speak(dn_team *team) {
    team->spoken++;
    __atomic_store_n(counter_of(team, team->rank), team->spoken, __ATOMIC_RELEASE);
}

static int all_have_spoken(const dn_team *team) {
    for (int r = 0; r < team->ranks; r++)
        if (__atomic_load_n(counter_of(team, r), __ATOMIC_ACQUIRE) < team->spoken) return 0;
    return 1;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int dn_team_heard(dn_team *team, double seconds) {
    if (all_have_spoken(team)) return 1;
    for (const double until = seconds > 0 ? now() + seconds : 0; seconds > 0 && now() < until; sched_yield())
        for (int i = 0; i < LOOKS; i++)
            if (all_have_spoken(team)) return 1;
    return 0;
}

/* ---- an update like the last one ------------------------------------------------------------------------------------- */

static void *copied(const void *from, size_t bytes) {
    void *to = malloc(bytes + 1);
    return to ? memcpy(to, from, bytes) : NULL;
}

int dn_team_learn(dn_team *team, int n_dense, int n_tables, const uint8_t *filled, int n_shares, const dn_team_share *shares,
                  const dn_team_window *windows) {
    dn_team_forget(team);
    team->filled = copied(filled, (size_t)team->ranks * (size_t)n_dense);
    team->rows = malloc((size_t)team->ranks * (size_t)n_tables * sizeof *team->rows + 1);
    team->shares = copied(shares, (size_t)n_shares * sizeof *shares);
    team->windows = copied(windows, (size_t)n_tables * sizeof *windows);
    if (!team->filled || !team->rows || !team->shares || !team->windows) {
        dn_team_forget(team);
        return DN_ERROR_MEMORY;
    }
    team->n_dense = n_dense;
    team->n_tables = n_tables;
    team->n_shares = n_shares;
    return 0;
}

/* What this comes to is the same on all ranks: it is made of what all have said, and of what all have learnt. */
static int is_like_the_last(const dn_team *team, const layout *l) {
    const uint8_t *mine = message_of(team, team->rank, team->spoken);
    for (int r = 0; r < team->ranks; r++) {
        const uint8_t *theirs = message_of(team, r, team->spoken);
        if (memcmp(theirs, mine, l->weight)) return 0;
        if (memcmp(theirs + l->filled, team->filled + (size_t)r * (size_t)team->n_dense, (size_t)team->n_dense)) return 0;
        for (int k = 0; k < team->n_tables; k++)
            if ((team->rows[r * team->n_tables + k] = rows_in(theirs, l, k)) > team->windows[k].capacity) return 0;
    }
    return 1;
}

static void find_factors(dn_team *team, const layout *l, int average) {
    double total = 0;
    for (int r = 0; r < team->ranks; r++) {
        const double weight = weight_in(message_of(team, r, team->spoken), l);
        team->factors[r] = average ? weight : weight > 0;
        total += weight;
    }
    const double scale = !average ? 1 : total > 0 ? 1 / total : 0;
    for (int r = 0; r < team->ranks; r++) team->factors[r] *= scale;
}

/* Parameters of which only other ranks have a gradient get one here. */
static void fill_missing(const dn_team *team, dn_param *const *params) {
    const uint8_t *mine = team->filled + (size_t)team->rank * (size_t)team->n_dense;
    for (int k = 0; k < team->n_dense; k++) {
        int elsewhere = 0;
        for (int r = 0; r < team->ranks && !mine[k]; r++) elsewhere |= team->filled[(size_t)r * (size_t)team->n_dense + (size_t)k];
        if (elsewhere) dn_param_mark_filled(params[k]);
    }
}

/* Adds up this rank's shares, and puts its rows where the others read them. */
static void give(dn_team *team, dn_param *const *params) {
    for (int i = 0; i < team->n_shares; i++) {
        const dn_team_share *share = &team->shares[i];
        dn_sum_ranks(team->ranks, share->segments, team->factors, share->filled, share->from, share->to);
    }
    for (int k = 0; k < team->n_tables; k++) {
        dn_param *table = params[team->n_dense + k];
        const int32_t reported = team->rows[team->rank * team->n_tables + k];
        const size_t rows = (size_t)(reported < table->n_touched ? reported : table->n_touched); /* never more than there is room for */
        if (!rows) continue;
        memcpy(team->windows[k].ids[team->rank], table->touched, rows * sizeof *table->touched);
        dn__axpy(rows * (size_t)table->row_size, (dn_real)team->factors[team->rank], table->block, 0, team->windows[k].rows[team->rank]);
    }
}

/* Adds up all ranks' rows, in their order. */
static int take_rows(dn_team *team, dn_param *const *params) {
    for (int k = 0; k < team->n_tables; k++) {
        dn_param *table = params[team->n_dense + k];
        const dn_team_window *window = &team->windows[k];
        dn_param_clear_gradient(table);
        for (int r = 0; r < team->ranks; r++) {
            const int32_t rows = team->rows[r * team->n_tables + k]; /* the report may have been overwritten */
            if (rows && dn_lookup_add(table, rows, window->ids[r], window->rows[r])) return DN_ERROR_MEMORY;
        }
    }
    return DN_TEAM_DONE;
}

int dn_team_exchange(dn_team *team, const void *head, int64_t n_head, double weight, int n_dense, int n_tables, dn_param *const *params,
                     int average, int usual, double seconds) {
    const layout l = layout_of(n_head, n_dense, n_tables);
    if (l.size > (size_t)team->most) return DN_ERROR_VALUE;
    if (team->stage == TO_SAY) {
        dn_report(head, n_head, weight, n_dense, n_tables, params, message_of(team, team->rank, team->spoken + 1));
        speak(team);
        team->stage = TO_HEAR;
    }
    if (!dn_team_heard(team, seconds)) return DN_TEAM_WAITS;
    if (team->stage == TO_HEAR) {
        team->stage = TO_SAY;
        if (!usual || team->n_shares < 0 || !is_like_the_last(team, &l)) return DN_TEAM_NEWS;
        fill_missing(team, params);
        find_factors(team, &l, average);
        give(team, params);
        speak(team); /* behind it sums and rows are complete */
        team->stage = TO_MEET;
        if (!dn_team_heard(team, seconds)) return DN_TEAM_WAITS;
    }
    team->stage = TO_SAY;
    return take_rows(team, params);
}
