/* The ranks of one host, through memory that they share: messages, and in the steady state the
 * whole update: negotiate, sum, update, copy.
 *
 * Of a small model's step an exchange in Python is several hundredths: after a backward its code
 * and data are no longer in the caches. So parameters for which there is a plan are exchanged here,
 * whichever of them each rank has used: parsers and programs of several tasks use other ones in
 * every update. Who adds up what follows from the messages, at each update anew, which takes less
 * than a microsecond for 50 parameters of two ranks. Where messages differ in anything else, or
 * rows need more capacity, they go to Python, which can do all. This knows parameters, and where
 * their gradients lie; what messages mean is Python's business.
 *
 * Each rank has a line that only it writes: how often it has spoken. Its messages lie in two
 * places, in turn: a message is overwritten when its rank speaks the next but one time, and that is
 * after all have spoken since, so that they have read it. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "kernels/kernels.h"
#include "params/params.h"
#include "params/rules.h"

enum {
    LINE = 64,
    LOOKS = 16, /* between two looks at the clock */
    /* shares begin at multiples of so many: two ranks do not write into one line of the cache */
    NUMBERS = 16
};

struct dn_shm_comm {
    int ranks, rank;
    int64_t most; /* bytes of a message, a multiple of LINE */
    char *memory;
    int64_t sent;  /* how often this rank has */
    int has_given; /* its rows, before ranks agreed that they fit */
    int *ids;      /* of rows that ranks use */
    int64_t ids_capacity;
    enum { TO_SEND, TO_RECEIVE, TO_EXCHANGE } stage;
};

/* ---- messages ------------------------------------------------------------------------- */

dn_rank_message_layout dn_rank_message_layout_of(int n_dense, int n_tables) {
    dn_rank_message_layout l = {.rows = sizeof(dn_rank_message)};
    l.filled = l.rows + n_tables * (int64_t)sizeof(int32_t);
    l.size = l.filled + n_dense;
    return l;
}

int dn_param_state(const dn_members *of, int i) {
    const dn_param *p = of->params[i];
    const dn_trainer *t = of->trainer;
    const int excluded = t && p->id < t->n_excluded && t->excluded[p->id];
    return (dn__param_is_updated(p) ? 0 : DN_IS_FROZEN) | (excluded ? DN_IS_EXCLUDED : 0) |
           (p->rows && p->factor == 1 ? DN_IS_SETTLED : 0) | p->precision * DN_PRECISION_IS;
}

void dn_rank_message_write(const dn_rank_message *message, const dn_members *of, void *out) {
    const dn_rank_message_layout l = dn_rank_message_layout_of(of->n_dense, of->n_tables);
    uint8_t *bytes = out;
    dn_rank_message *copy = out;
    int32_t *rows = (int32_t *)(bytes + l.rows);
    uint64_t hash = (uint64_t)message->hash;
    *copy = *message;
    dn_meter_read(&copy->meter);
    for (int k = 0; k < of->n_dense + of->n_tables; k++)
        hash = (hash ^ (uint64_t)dn_param_state(of, k)) * 0x9E3779B97F4A7C15u;
    copy->hash = (int64_t)hash;
    for (int k = 0; k < of->n_tables; k++)
        rows[k] = (int32_t)of->params[of->n_dense + k]->n_touched;
    for (int k = 0; k < of->n_dense; k++) bytes[l.filled + k] = !dn__param_is_empty(of->params[k]);
}

/* ---- sending and receiving ------------------------------------------------------------ */

static int64_t stride(const dn_shm_comm *comm) { return LINE + 2 * comm->most; }
static int64_t cache_line_bytes(int64_t n) { return (n + LINE - 1) / LINE * LINE; }
int64_t dn_shm_comm_bytes(int ranks, int64_t most) {
    return ranks * (LINE + 2 * cache_line_bytes(most));
}

dn_shm_comm *dn_shm_comm_new(int ranks, int rank, void *memory, int64_t most) {
    dn_shm_comm *comm = calloc(1, sizeof *comm);
    if (comm)
        *comm = (dn_shm_comm){.ranks = ranks,
                              .rank = rank,
                              .most = cache_line_bytes(most),
                              .memory = memory};
    return comm;
}

void dn_shm_comm_free(dn_shm_comm *comm) {
    if (comm) free(comm->ids);
    free(comm);
}

static int64_t *counter_of(const dn_shm_comm *comm, int rank) {
    return (int64_t *)(comm->memory + rank * stride(comm));
}
static uint8_t *message_of(const dn_shm_comm *comm, int rank, int64_t number) {
    return (uint8_t *)comm->memory + rank * stride(comm) + LINE + (number & 1) * comm->most;
}
const uint8_t *dn_shm_comm_message(dn_shm_comm *comm, int rank) {
    return message_of(comm, rank, comm->sent);
}

static void send_message(dn_shm_comm *comm) {
    comm->sent++;
    __atomic_store_n(counter_of(comm, comm->rank), comm->sent, __ATOMIC_RELEASE);
}

static int all_have_sent(const dn_shm_comm *comm) {
    for (int r = 0; r < comm->ranks; r++)
        if (__atomic_load_n(counter_of(comm, r), __ATOMIC_ACQUIRE) < comm->sent) return 0;
    return 1;
}

/* Tells the core that this is a loop that waits: it leaves its units to the core's other thread,
 * and sees a change sooner. */
static inline void pause_core(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int dn_shm_comm_received(dn_shm_comm *comm, double seconds) {
    if (all_have_sent(comm)) return 1;
    for (const double until = seconds > 0 ? dn__seconds() + seconds : 0;
         seconds > 0 && dn__seconds() < until; sched_yield())
        for (int i = 0; i < LOOKS; i++, pause_core())
            if (all_have_sent(comm)) return 1;
    return 0;
}

/* ---- dense parameters ------------------------------------------------------------------ */

static int is_used(const dn_shm_comm_plan *plan, int k) {
    for (int r = 0; r < plan->ranks; r++)
        if (plan->filled[r][k]) return 1;
    return 0;
}

/* Each rank sums its own pieces: where that is enough for the update, for itself, and their squares
 * for all; otherwise for all ranks. */
static int sum_dense(const dn_shm_comm_plan *plan, int k) {
    uint8_t who[DN_MOST_RANKS];
    const dn_param *p = plan->of.params[k];
    const int in_pieces = dn__is_in_pieces(p);
    for (int r = 0; r < plan->ranks; r++) who[r] = plan->filled[r][k];
    for (int64_t from, to = 0; dn__next_piece(p, 0, &from, &to);) {
        const int error =
            dn_sum_ranks(plan->ranks, in_pieces ? plan->rank : -1, plan->segments[p->chunk],
                         plan->factors, who, p->offset + from, p->offset + to);
        if (error) return error;
        if (in_pieces) dn__publish_squares(p, from, to);
    }
    return 0;
}

/* ---- rows of tables -------------------------------------------------------------------- */

/* Puts this rank's rows where the others read them, as long as there is room for all. */
static void give_rows(const dn_shm_comm_plan *plan) {
    if (!plan->of.n_tables) return;
    const int phase = dn_meter_switch(DN_ROWS);
    for (int k = 0; k < plan->of.n_tables; k++) {
        dn_param *table = plan->of.params[plan->of.n_dense + k];
        const dn_shared_buffer *buffer = &plan->buffers[k];
        dn__lock(table->store);
        const size_t rows = (size_t)table->n_touched;
        if (rows && table->n_touched <= buffer->capacity) {
            memcpy(buffer->ids[plan->rank], table->touched, rows * sizeof *table->touched);
            memcpy(buffer->rows[plan->rank], table->block,
                   rows * (size_t)table->row_size * sizeof *table->block);
        }
        dn__unlock(table->store);
    }
    dn_meter_switch(phase);
}

/* Keeps the numbers of all ranks' rows: the others overwrite theirs once they have updated. */
static int keep_row_numbers(dn_shm_comm *comm, const dn_shm_comm_plan *plan) {
    const int n = plan->of.n_tables;
    int64_t total = 0;
    for (int i = 0; i < n * plan->ranks; i++) total += plan->rows[i];
    if (total > comm->ids_capacity) {
        int *ids = realloc(comm->ids, 2 * (size_t)total * sizeof *ids);
        if (!ids) return DN_ERROR_MEMORY;
        comm->ids = ids;
        comm->ids_capacity = 2 * total;
    }
    int *to = comm->ids;
    for (int k = 0; k < n; k++) {
        dn_param *table = plan->of.params[plan->of.n_dense + k];
        table->host_rows = to;
        for (int r = 0; r < plan->ranks; r++) {
            const size_t rows = (size_t)plan->rows[r * n + k];
            if (rows) memcpy(to, plan->buffers[k].ids[r], rows * sizeof *to);
            to += rows;
        }
        table->n_host_rows = to - table->host_rows;
    }
    return 0;
}

/* Adds up all ranks' rows, in their order: those that this rank owns, or all. */
static int sum_rows(const dn_shm_comm_plan *plan, int own_alone) {
    const int n = plan->of.n_tables;
    for (int k = 0; k < n; k++) {
        dn_param *table = plan->of.params[plan->of.n_dense + k];
        const dn_shared_buffer *buffer = &plan->buffers[k];
        const int in_part = own_alone && dn__is_in_pieces(table);
        if (!buffer->capacity) continue; /* nobody has ever had rows of it */
        const int error = dn__lookup_sum_ranks(table, plan->ranks, plan->rows + k, (size_t)n,
                                               buffer->ids, buffer->rows, plan->factors, in_part);
        if (error) return error;
        if (in_part) dn__publish_row_squares(table);
    }
    return 0;
}

/* After a sum of pieces that no update follows: the pieces and rows of the others, too. */
static int complete(const dn_shm_comm_plan *plan) {
    const int members = plan->of.n_dense + plan->of.n_tables;
    if (!members || !dn__is_in_pieces(plan->of.params[0])) return 0; /* all is here */
    for (int k = 0; k < plan->of.n_dense; k++) {
        const dn_param *p = plan->of.params[k];
        if (!is_used(plan, k)) continue;
        dn_real *const *segments = plan->segments[p->chunk];
        for (int64_t from = 0; from < p->row_size; from += DN_PIECE) {
            const int64_t n = p->row_size - from < DN_PIECE ? p->row_size - from : DN_PIECE;
            const int of = dn__owner(p, from / DN_PIECE);
            if (of != plan->rank)
                memcpy(segments[plan->rank] + p->offset + from, segments[of] + p->offset + from,
                       (size_t)n * sizeof(dn_real));
        }
    }
    return sum_rows(plan, 0);
}

/* ---- the steady state ----------------------------------------------------------------- */

/* Notes who has gradients of what, and whether nothing else is to be known. What this comes to is
 * the same on all ranks: it is made of what all have sent, and of a plan that all have. */
static int is_as_planned(const dn_shm_comm *comm, dn_shm_comm_plan *plan,
                         const dn_rank_message_layout *l) {
    const dn_rank_message *mine = (const void *)message_of(comm, comm->rank, comm->sent);
    for (int r = 0; r < comm->ranks; r++) {
        const uint8_t *theirs = message_of(comm, r, comm->sent);
        const dn_rank_message *message = (const void *)theirs;
        if (message->hash != mine->hash || message->flags != mine->flags) return 0;
        plan->filled[r] = theirs + l->filled;
        plan->meters[r] = message->meter;
        for (int k = 0; k < plan->of.n_tables; k++) {
            const int32_t rows = ((const int32_t *)(theirs + l->rows))[k];
            if (rows > plan->buffers[k].capacity) return 0;
            plan->rows[r * plan->of.n_tables + k] = rows;
        }
    }
    return 1;
}

static void find_factors(const dn_shm_comm *comm, dn_shm_comm_plan *plan, int average) {
    double total = 0;
    for (int r = 0; r < comm->ranks; r++) {
        const double weight = ((const dn_rank_message *)message_of(comm, r, comm->sent))->weight;
        plan->factors[r] = average ? weight : weight > 0;
        total += weight;
    }
    const double scale = !average ? 1 : total > 0 ? 1 / total : 0;
    for (int r = 0; r < comm->ranks; r++) plan->factors[r] *= scale;
}

int dn_shm_comm_negotiate(dn_shm_comm *comm, const dn_rank_message *message, const dn_members *of,
                          dn_shm_comm_plan *plan, int average, double seconds) {
    const dn_rank_message_layout l = dn_rank_message_layout_of(of->n_dense, of->n_tables);
    if (l.size > comm->most) return DN_ERROR_VALUE;
    if (comm->stage == TO_SEND) {
        comm->has_given = 0;
        if (plan) give_rows(plan);
        dn_rank_message_write(message, of, message_of(comm, comm->rank, comm->sent + 1));
        send_message(comm);
        comm->stage = TO_RECEIVE;
    }
    if (!dn_shm_comm_received(comm, seconds)) return DN_SHM_COMM_WAITS;
    comm->stage = TO_SEND;
    if (!plan || !is_as_planned(comm, plan, &l)) return DN_SHM_COMM_NO_PLAN;
    find_factors(comm, plan, average);
    comm->has_given = 1;
    return DN_SHM_COMM_DONE;
}

/* Parameters of which only other ranks have a gradient get one here. */
static void fill_missing(const dn_shm_comm_plan *plan) {
    for (int k = 0; k < plan->of.n_dense; k++)
        if (!plan->filled[plan->rank][k] && is_used(plan, k))
            dn_param_mark_filled(plan->of.params[k]);
}

static void count_bytes(const dn_shm_comm_plan *plan) {
    int64_t numbers = 0, ids = 0;
    for (int k = 0; k < plan->of.n_dense; k++)
        numbers += plan->filled[plan->rank][k] ? plan->places[k].length : 0;
    for (int k = 0; k < plan->of.n_tables; k++) {
        const int64_t rows = plan->rows[plan->rank * plan->of.n_tables + k];
        ids += rows;
        numbers += rows * plan->of.params[plan->of.n_dense + k]->row_size;
    }
    dn_meter_hand_over(numbers * (int64_t)sizeof(dn_real) + ids * (int64_t)sizeof(int));
}

static int sum(dn_shm_comm *comm, const dn_shm_comm_plan *plan) {
    int error = plan->ranks > DN_MOST_RANKS ? DN_ERROR_VALUE : 0;
    if (plan->of.n_dense + plan->of.n_tables) {
        dn_store *store = plan->of.params[0]->store;
        store->rank = plan->rank;
        store->ranks = plan->ranks;
    }
    fill_missing(plan);
    for (int k = 0; k < plan->of.n_dense && !error; k++)
        if (is_used(plan, k)) error = sum_dense(plan, k);
    const int phase = dn_meter_switch(DN_ROWS);
    if (!error) error = keep_row_numbers(comm, plan);
    if (!error) error = sum_rows(plan, 1);
    dn_meter_switch(phase);
    return error;
}

int dn_shm_comm_sum(dn_shm_comm *comm, dn_shm_comm_plan *plan, double seconds) {
    if (comm->stage == TO_SEND && !comm->has_given) {
        give_rows(plan);
        send_message(comm);
        comm->stage = TO_RECEIVE;
    }
    if (comm->stage == TO_RECEIVE) {
        if (!dn_shm_comm_received(comm, seconds)) return DN_SHM_COMM_WAITS;
        comm->stage = TO_SEND;
    }
    if (comm->stage == TO_SEND) {
        count_bytes(plan);
        const int error = sum(comm, plan);
        if (error) return error;
        send_message(comm); /* behind it sums are complete, and nobody reads rows */
        comm->stage = TO_EXCHANGE;
    }
    if (!dn_shm_comm_received(comm, seconds)) return DN_SHM_COMM_WAITS;
    comm->stage = TO_SEND;
    comm->has_given = 0;
    return DN_SHM_COMM_DONE;
}

int dn_shm_comm_close(dn_shm_comm *comm, dn_trainer *trainer, int n, dn_param *const *params,
                      double seconds) {
    if (!dn_trainer_is_open(trainer)) return DN_SHM_COMM_DONE;
    if (comm->stage == TO_SEND) {
        send_message(comm);
        comm->stage = TO_RECEIVE;
    }
    if (!dn_shm_comm_received(comm, seconds)) return DN_SHM_COMM_WAITS;
    comm->stage = TO_SEND;
    dn_trainer_close(trainer, n, params);
    return DN_SHM_COMM_DONE;
}

/* Updates what this rank owns. Negative: an error. */
static int update_share(const dn_shm_comm_plan *plan, dn_follow_up *u) {
    dn_meter_switch(DN_UPDATE);
    const int error = dn_trainer_update(u->trainer);
    return error == DN_ERROR_NONFINITE && complete(plan) ? DN_ERROR_MEMORY : error;
}

int dn_shm_comm_update(dn_shm_comm *comm, const dn_rank_message *message, const dn_members *of,
                       dn_shm_comm_plan *plan, int average, dn_follow_up *u, double seconds) {
    int outcome = DN_SHM_COMM_DONE;
    if (u->stage == DN_FOLLOW_UP_AGREE) {
        outcome = dn_shm_comm_negotiate(comm, message, of, plan, average, seconds);
        if (outcome != DN_SHM_COMM_DONE) return outcome;
        dn_meter_switch(DN_EXCHANGE);
        dn_trainer_open(u->trainer, plan, 1);
        u->stage = DN_FOLLOW_UP_SUM;
    }
    if (u->stage == DN_FOLLOW_UP_SUM) {
        outcome = dn_shm_comm_sum(comm, plan, seconds);
        if (outcome == DN_SHM_COMM_WAITS) return outcome;
        u->error = outcome;
        if (outcome < 0) return DN_SHM_COMM_DONE;
        u->error = update_share(plan, u);
        u->stage = u->error ? DN_FOLLOW_UP_UPDATE : DN_FOLLOW_UP_CLOSE;
    }
    if (u->error && u->error != DN_ERROR_NONFINITE) return DN_SHM_COMM_DONE;
    outcome = dn_shm_comm_close(comm, u->trainer, -1, NULL, seconds);
    if (outcome == DN_SHM_COMM_DONE && !u->error) u->stage = DN_FOLLOW_UP_DONE;
    return outcome;
}
