/* The ranks of one host, through memory that they share: reports, and an update's exchange in one call.
 *
 * Of a small model's step an exchange in Python is several hundredths: after a backward its code and data are no longer in the caches. So an
 * update of parameters whose places are known is done here, whichever of them each rank has used: parsers and programs of several tasks use
 * other ones in every update. Who adds up what follows from the reports, at each update anew, which takes less than a microsecond for 50
 * parameters of two ranks. Where reports differ in anything else, or rows need more room, they go to Python, which can do all. This knows
 * parameters, and where their gradients lie; what reports mean is Python's business.
 *
 * Each rank has a line that only it writes: how often it has spoken. Its messages lie in two places, in turn: a message is overwritten when its
 * rank speaks the next but one time, and that is after all have spoken since, so that they have read it. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"
#include "params/params.h"

enum {
    LINE = 64,
    LOOKS = 16,                   /* between two looks at the clock */
    NUMBERS = 16                  /* shares begin at multiples of so many: two ranks do not write into one line of the cache */
};

struct dn_team {
    int ranks, rank;
    int64_t most;                 /* bytes of a message, a multiple of LINE */
    char *memory;
    int64_t spoken;               /* how often this rank has */
    enum { TO_SAY, TO_HEAR, TO_MEET } stage;
    /* what was learnt; NULL: nothing */
    int n_dense, n_tables;
    dn_place *places;
    dn_real *const *const *segments;
    dn_team_window *windows;
    /* of the present update */
    dn_share *shares;
    int32_t *rows;                /* (rank, table) */
    const uint8_t **filled;       /* of each rank, in its report */
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
    if (!team) return NULL;
    *team = (dn_team){.ranks = ranks, .rank = rank, .most = in_lines(most), .memory = memory};
    team->factors = malloc((size_t)ranks * sizeof *team->factors);
    team->filled = malloc((size_t)ranks * sizeof *team->filled);
    if (team->factors && team->filled) return team;
    dn_team_free(team);
    return NULL;
}

void dn_team_forget(dn_team *team) {
    free(team->places);
    free(team->windows);
    free(team->shares);
    free(team->rows);
    team->places = NULL;
    team->windows = NULL;
    team->shares = NULL;
    team->rows = NULL;
}

void dn_team_free(dn_team *team) {
    if (!team) return;
    dn_team_forget(team);
    free(team->factors);
    free(team->filled);
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

/* Tells the core that this is a loop that waits: it leaves its units to the core's other thread, and sees a change sooner. */
static inline void pause_core(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int dn_team_heard(dn_team *team, double seconds) {
    if (all_have_spoken(team)) return 1;
    for (const double until = seconds > 0 ? now() + seconds : 0; seconds > 0 && now() < until; sched_yield())
        for (int i = 0; i < LOOKS; i++, pause_core())
            if (all_have_spoken(team)) return 1;
    return 0;
}

/* ---- who adds up what ------------------------------------------------------------------------------------------------ */

static int is_used(int ranks, const uint8_t *const *filled, int k) {
    for (int r = 0; r < ranks; r++)
        if (filled[r][k]) return 1;
    return 0;
}
static int are_used_alike(int ranks, const uint8_t *const *filled, int j, int k) {
    for (int r = 0; r < ranks; r++)
        if (filled[r][j] != filled[r][k]) return 0;
    return 1;
}

/* Neighbours that the same ranks have used are one range. */
static int find_ranges(int ranks, int n, const dn_place *places, const uint8_t *const *filled, dn_share *ranges) {
    int count = 0;
    for (int k = 0; k < n; k++) {
        if (!is_used(ranks, filled, k)) continue;
        const dn_place p = places[k];
        dn_share *last = count ? &ranges[count - 1] : NULL;
        const int is_next = last && last->chunk == p.chunk && p.offset >= last->to && p.offset - last->to < NUMBERS;
        if (is_next && are_used_alike(ranks, filled, last->like, k)) last->to = p.offset + p.length;
        else ranges[count++] = (dn_share){p.chunk, k, p.offset, p.offset + p.length};
    }
    return count;
}

static int64_t lines_in(const dn_share *range) { return (range->to - range->from + NUMBERS - 1) / NUMBERS; }

int dn_divide(int ranks, int rank, int n, const dn_place *places, const uint8_t *const *filled, dn_share *shares) {
    const int count = find_ranges(ranks, n, places, filled, shares);
    int64_t total = 0, passed = 0;
    for (int i = 0; i < count; i++) total += lines_in(&shares[i]);
    const int64_t first = total * rank / ranks, last = total * (rank + 1) / ranks;
    int mine = 0;
    for (int i = 0; i < count; i++) {
        const dn_share range = shares[i];
        const int64_t lines = lines_in(&range);
        const int64_t low = first > passed ? first - passed : 0, high = last - passed < lines ? last - passed : lines;
        if (low < high) {
            const int64_t to = range.from + high * NUMBERS;
            shares[mine++] = (dn_share){range.chunk, range.like, range.from + low * NUMBERS, to < range.to ? to : range.to};
        }
        passed += lines;
    }
    return mine;
}

int dn_sum_shares(int ranks, int rank, int n, const dn_place *places, const uint8_t *const *filled, dn_real *const *const *segments,
                  const double *factors, dn_share *room) {
    uint8_t who[DN_MOST_RANKS];
    if (ranks > DN_MOST_RANKS) return DN_ERROR_VALUE;
    const int count = dn_divide(ranks, rank, n, places, filled, room);
    for (int i = 0; i < count; i++) {
        for (int r = 0; r < ranks; r++) who[r] = filled[r][room[i].like];
        const int error = dn_sum_ranks(ranks, segments[room[i].chunk], factors, who, room[i].from, room[i].to);
        if (error) return error;
    }
    return 0;
}

/* ---- an update of parameters whose places are known -------------------------------------------------------------------- */

static void *copied(const void *from, size_t bytes) {
    void *to = malloc(bytes + 1);
    return to ? memcpy(to, from, bytes) : NULL;
}

int dn_team_learn(dn_team *team, int n_dense, int n_tables, const dn_place *places, dn_real *const *const *segments,
                  const dn_team_window *windows) {
    dn_team_forget(team);
    team->places = copied(places, (size_t)n_dense * sizeof *places);
    team->windows = copied(windows, (size_t)n_tables * sizeof *windows);
    team->shares = malloc((size_t)n_dense * sizeof *team->shares + 1);
    team->rows = malloc((size_t)team->ranks * (size_t)n_tables * sizeof *team->rows + 1);
    if (!team->places || !team->windows || !team->shares || !team->rows) {
        dn_team_forget(team);
        return DN_ERROR_MEMORY;
    }
    team->n_dense = n_dense;
    team->n_tables = n_tables;
    team->segments = segments;
    return 0;
}

/* Notes who has gradients of what, and whether nothing else is to be known. What this comes to is the same on all ranks: it is made of what
 * all have said, and of what all have learnt. */
static int is_usual(dn_team *team, const layout *l) {
    const uint8_t *mine = message_of(team, team->rank, team->spoken);
    for (int r = 0; r < team->ranks; r++) {
        const uint8_t *theirs = message_of(team, r, team->spoken);
        if (memcmp(theirs, mine, l->weight)) return 0;
        team->filled[r] = theirs + l->filled;
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
    const uint8_t *mine = team->filled[team->rank];
    for (int k = 0; k < team->n_dense; k++)
        if (!mine[k] && is_used(team->ranks, team->filled, k)) dn_param_mark_filled(params[k]);
}

/* Adds up this rank's shares, and puts its rows where the others read them. */
static int give(dn_team *team, dn_param *const *params) {
    const int error = dn_sum_shares(team->ranks, team->rank, team->n_dense, team->places, team->filled,
        team->segments, team->factors, team->shares);
    if (error) return error;
    for (int k = 0; k < team->n_tables; k++) {
        dn_param *table = params[team->n_dense + k];
        const int32_t reported = team->rows[team->rank * team->n_tables + k];
        const size_t rows = (size_t)(reported < table->n_touched ? reported : table->n_touched); /* never more than there is room for */
        if (!rows) continue;
        pthread_mutex_lock(&table->root->lock);
        memcpy(team->windows[k].ids[team->rank], table->touched, rows * sizeof *table->touched);
        dn__axpy(rows * (size_t)table->row_size, (dn_real)team->factors[team->rank], table->block, 0, team->windows[k].rows[team->rank]);
        pthread_mutex_unlock(&table->root->lock);
    }
    return 0;
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
        if (!usual || !team->places || !is_usual(team, &l)) return DN_TEAM_NEWS;
        fill_missing(team, params);
        find_factors(team, &l, average);
        const int error = give(team, params); /* of the number of ranks: on all of them */
        if (error) return error;
        speak(team); /* behind it sums and rows are complete */
        team->stage = TO_MEET;
        if (!dn_team_heard(team, seconds)) return DN_TEAM_WAITS;
    }
    team->stage = TO_SAY;
    return take_rows(team, params);
}
