/* The second part of the C interface, included by dn_api.h alone: parameters, their gradients,
 * gradient-ready hooks, and the sums of gradients over ranks. cffi reads it as it does dn_api.h. */
/* ---- parameters ----------------------------------------------------------------------- */
dn_store *dn_store_new(void);
void dn_store_free(dn_store *); /* the memory goes when no graph uses it any more */
/* A dense parameter (row_count = 0) or a lookup table of row_count rows, each of dims d. Values and
 * gradients are zero. NULL: no memory. */
dn_param *dn_param_new(dn_store *, int nd, const int *d, int64_t row_count);
/* Gives a new parameter its first values, float32 numbers in storage order: drawn evenly from [a,
 * b), drawn normally with mean a and deviation b, or all a. */
enum dn_first { DN_FIRST_UNIFORM, DN_FIRST_NORMAL, DN_FIRST_CONSTANT };
void dn_param_begin(dn_param *, struct dn_rng *, int first, float a, float b);
int64_t dn_param_handle(dn_param *, int constant);
/* the storage itself; a table's rows follow one another. Other threads may write to it */
dn_real *dn_param_values(dn_param *);
/* Values out, whole: an update or a writing by another thread comes before or after. Elements
 * [from, from + n) in storage order; rows of a table. */
void dn_param_copy(dn_param *, int64_t from, int64_t n, dn_real *out);
void dn_lookup_copy_rows(dn_param *, int64_t n, const int *rows, dn_real *out);
/* What a parameter is given. values: of elements [from, from + n), NULL: they stay; value = (1 -
 * share) value + share x. `factor` is that of dn_param_storage, for a whole table. sets_gradient:
 * the gradient is replaced by this one, of all elements, NULL: it is emptied; of a table, rows of
 * zeros count as not touched. A frozen parameter has none. */
typedef struct dn_assignment {
    dn_param *param;
    const dn_real *values, *gradient;
    int64_t from, n;
    double factor, share;
    int sets_gradient;
} dn_assignment;
/* Other memory that is written with them, such as a trainer's moments. */
typedef struct dn_copied {
    void *to;
    const void *from;
    int64_t bytes;
} dn_copied;
/* Writes all of it at one moment: what other threads do to parameters, and signals that Python
 * handles, come before or after. DN_ERROR_MEMORY: nothing is changed. */
int dn_store_write(dn_store *, int n, const dn_assignment *, int n_copied, const dn_copied *);
/* The same of one parameter: n values from element `from` on; what its values are multiplied by;
 * the range that they are brought into; zeros, and of a dense parameter an empty gradient. */
int dn_param_write(dn_param *, int64_t from, int64_t n, const dn_real *values);
int dn_param_scale(dn_param *, dn_real by);
int dn_param_clip(dn_param *, dn_real low, dn_real high);
int dn_param_zero(dn_param *);
int64_t dn_param_size(dn_param *);
/* The storage as it is, and the factor that the values are it times: not 1 for a table whose weight
 * decay was not multiplied in yet. dn_param_values multiplies it in, which rounds; a checkpoint
 * must not change what comes after it. */
dn_real *dn_param_storage(dn_param *, double *factor);
/* A hash of the values as they are stored, and of the factor; nothing is changed. */
uint64_t dn_param_checksum(dn_param *);
/* of this memory and the seed */
uint64_t dn_checksum(const void *, int64_t bytes, uint64_t seed);
void dn_param_set_updated(dn_param *, int updated); /* 0 drops a pending gradient */
int dn_param_updated(dn_param *);
/* What products with a parameter that is a matrix, of two dims, are rounded to; DEFAULT: as
 * dn_set_precision says. For graphs that have not used it yet. */
enum dn_precision { DN_PRECISION_DEFAULT, DN_PRECISION_FLOAT32, DN_PRECISION_BF16 };
void dn_param_set_precision(dn_param *, int precision);
int dn_param_precision(dn_param *);
/* 1: what DyNet's numbers depend on. Parameters that are not updated gather gradients all the same,
 * which count in the norm and are never cleared, and decay; what was used before the loss has a
 * gradient, if only zero; nodes behind nobackprop have gradients; graphs copy the values of
 * parameters, so that those computed before an update may be followed by backward after it. */
void dn_store_as_dynet(dn_store *, int on);
/* Call after changing values of these parameters from outside: a backward through values computed
 * before is then an error. */
void dn_params_changed(dn_store *, int n, dn_param *const *params);
/* Rises whenever values change; waits for a change that is under way. */
int64_t dn_store_version(dn_store *);
/* Which of a table's rows have changed since the store had this version, 1 or 0; of a dense
 * parameter one number. */
void dn_param_changed_since(const dn_param *, int64_t version, uint8_t *rows);

/* Moments that the ranks of a host share (csrc/params/trainers.c). In an update each rank owns
 * pieces of dense parameters and rows of tables (csrc/params/shared.c): it copies their values into
 * a shared buffer and updates them and their moments there. When all have done so, each copies the
 * new values into its own.
 *
 * share: the moments of the block of values that this parameter lies in move to `memory`, which all
 * ranks see: (1 + moments) times the block's numbers (dn_chunk_capacity, or the table's size), of
 * which the buffer of values comes first. From then on the trainer updates between open and close
 * alone; otherwise DN_ERROR_STATE. unshare: copies moments back into private memory;
 * DN_ERROR_MEMORY; DN_ERROR_BUSY: the store is in use. */
void dn_trainer_share(dn_trainer *, dn_param *, dn_real *memory);
int dn_trainer_unshare(dn_trainer *);
/* From here on, up to close, an update is of this rank's share alone. in_pieces: each rank has then
 * the sums of its own pieces and rows alone, unless this trainer needs whole gradients. Nothing if
 * the trainer does not share. close, once all have updated: takes the new values of these
 * parameters, n < 0: of all, and clears gradients. */
struct dn_shm_comm_plan;
void dn_trainer_open(dn_trainer *, const struct dn_shm_comm_plan *, int in_pieces);
int dn_trainer_is_open(dn_trainer *);
void dn_trainer_close(dn_trainer *, int n, dn_param *const *params);
/* of all dense parameters; bytes of the sums of squares of rows */
int64_t dn_store_pieces(dn_store *);
int64_t dn_store_row_squares(dn_store *, int ranks);

/* Gradients. An "empty" gradient reads as zero whatever its memory holds. */
int dn_param_empty(dn_param *);
/* The gradient's memory (dense parameters). If it was empty it is zeroed first and counts as filled
 * from then on. */
dn_real *dn_param_gradient(dn_param *);
/* The gradient counts as filled from now on (dense parameters); somebody else writes the memory. */
void dn_param_mark_filled(dn_param *);
/* Copies a dense parameter's gradient, or a whole table's (zeros where there is none). */
void dn_param_copy_gradient(dn_param *, dn_real *out);
void dn_param_clear_gradient(dn_param *); /* back to empty */
/* Its numbers become zeros, whatever they are; it, and each row, counts as used as before. */
void dn_param_zero_gradient(dn_param *);
void dn_param_scale_gradient(dn_param *, dn_real by);
/* How often each gradient was cleared so far, and the product of all that it was scaled by. */
void dn_gradient_marks(int n, dn_param *const *params, int64_t *clears, double *scales);
/* Tables: how many rows have a gradient; if `capacity` is enough, copies of their numbers, in order
 * of first touch, and of their gradients, row after row (each NULL: not wanted). The gradients of
 * these rows, zeros where there is none. */
int64_t dn_lookup_touched(dn_param *, int64_t capacity, int *rows, dn_real *block);
void dn_lookup_copy_gradients(dn_param *, int64_t n, const int *rows, dn_real *out);
/* Add n row gradients; -1 if a row is out of range or memory is short. */
int dn_lookup_add(dn_param *, int64_t n, const int *rows, const dn_real *block);
/* The union of two sets of rows of `width` numbers, each in rising order of row: rows that are in
 * both are added up, a + b, others copied. out has room for all of a and b. Returns how many rows
 * there are. */
int64_t dn_merge_rows(int64_t width, int64_t n_a, const int *rows_a, const dn_real *a, int64_t n_b,
                      const int *rows_b, const dn_real *b, int *rows_out, dn_real *out);

/* Chunks: blocks that hold the dense parameters of a parameter store, gradients at the same offsets
 * as values. */
int dn_store_chunks(dn_store *);
/* elements in use, padding between parameters included (always zero) */
int64_t dn_chunk_size(dn_store *, int chunk);
int64_t dn_chunk_capacity(dn_store *, int chunk);
dn_real *dn_chunk_gradients(dn_store *, int chunk);
/* Move a chunk's gradients into memory from outside (capacity elements, 64-byte aligned, outliving
 * the store or the next move); NULL: back into private memory, which waits for nobody (a finaliser
 * may run inside of backward): DN_ERROR_BUSY if the store is in use. */
int dn_chunk_move_gradients(dn_store *, int chunk, dn_real *memory);
/* The gradients of one chunk on several ranks, each a segment of memory that all of them see:
 * elements [from, to) of every segment, or of that of the rank `only` if it is not -1, become the
 * sum over ranks of factors[r] segments[r][i], in rank order. Ranks with filled[r] = 0 count as
 * zero and are not read. The caller sees to it that nobody else writes or reads these elements
 * meanwhile. DN_ERROR_VALUE: more than DN_MOST_RANKS. */
enum { DN_MOST_RANKS = 4096 };
int dn_sum_ranks(int ranks, int only, dn_real *const *segments, const double *factors,
                 const uint8_t *filled, int64_t from, int64_t to);
int dn_param_chunk(dn_param *); /* -1 for tables */
int64_t dn_param_offset(dn_param *);

/* Watching a backward, from another thread or between its steps (csrc/backward/hooks.c). Once a
 * store is DN_HOOK_ARMED, the next backward that uses it makes it DN_HOOK_BEGUN and notifies of
 * each dense parameter when its gradient is complete: when the backward pass has passed its last
 * use, not only when it reaches its node. DN_HOOK_STEPS: the same, and a step of backward ends
 * when it has notified somebody. */
enum dn_hook {
    DN_HOOK_OFF,
    DN_HOOK_ARMED,
    DN_HOOK_STEPS,
    DN_HOOK_BEGUN,
    DN_HOOK_COMPLETE,
    DN_HOOK_FAILED
};
/* sets it; DN_HOOK_OFF ends every wait */
void dn_store_set_hook(dn_store *, int hook);
/* Sleeps while it is DN_HOOK_ARMED, this many seconds at most; returns what it is. */
int dn_store_await(dn_store *, double seconds);
/* How many backwards were watched, those of all watchers of the store: whether what was read is of
 * the last one. */
int64_t dn_store_hook_count(dn_store *);
/* How many backwards that use parameters of this store have begun, in all threads. */
int64_t dn_store_passes(dn_store *);
/* How many of the gradient's numbers, from the first, are complete in the watched backward; all, if
 * that does not write it. They may be read until the next one, without a lock. */
int64_t dn_param_ready(dn_param *);
/* Whether nobody has written, cleared or scaled it since. */
int dn_param_unchanged(dn_param *);

/* Between hosts: where numbers [from, to) of a dense gradient lie in an array of what is sent. */
typedef struct dn_span_taken {
    dn_param *param;
    int64_t from, to, at;
} dn_span_taken;
/* out[at ...] = factor g (zeros where the gradient is empty or factor is 0); takes no lock. g =
 * factor in[at ...], of whole gradients, which count as filled then. */
void dn_params_take(int n, const dn_span_taken *, double factor, dn_real *out);
void dn_params_put(int n, const dn_span_taken *, double factor, const dn_real *in);
/* sum = x[0] + x[1] + ..., in this order; sum may be one of them */
void dn_sum_arrays(int count, dn_real *const *x, int64_t n, dn_real *sum);
/* bfloat16, the upper half of a float, rounded to nearest, ties to even. encode: code = x +
 * residual rounded, and what that lacks is the new residual (0 where x is not finite); it may be
 * NULL: 0, and it is forgotten. */
void dn_bf16_encode(int64_t n, const dn_real *x, dn_real *residual, uint16_t *code);
void dn_bf16_decode(int64_t n, const uint16_t *code, dn_real *x);
/* Items in this order, the dearest first, each to the part of so many that has the least load so
 * far; of these the one with the fewest items, then the first. out: the part of each item. Short
 * costs are put in order here, equal ones as they come. DN_ERROR_MEMORY; DN_ERROR_VALUE: parts < 1,
 * or of short costs 2^16 parts or items and more. */
int dn_deal(int64_t n, const double *costs, const int64_t *order, int parts, int32_t *out);
int dn_deal_short(int64_t n, const uint16_t *costs, int parts, int32_t *out);

/* ---- profiles: how long each call of an operation takes */
/* what is no operation */
enum dn_profile_kind {
    DN_PROFILE_FORWARD = -1,
    DN_PROFILE_BACKWARD = -2,
    DN_PROFILE_UPDATE = -3,
    DN_PROFILE_WEIGHTS = -4 /* dW = dy x' of all uses of a matrix: y is dW, the inputs dy and x */
};
enum { DN_PROFILED_INPUTS = 3 }; /* more are left out */
/* A call, of one node or of a group of `members`: an operation or a dn_profile_kind; the dims of
 * its result and of its first inputs; how many multiplications its products have, -1: not known, or
 * it is none; when, by the meter's clock in nanoseconds; how many of these were spent in calls
 * within it. */
typedef struct dn_profiled {
    int what, backward, members, inputs;
    dn_dim y, x[DN_PROFILED_INPUTS];
    int64_t multiplications, begin, end, within;
} dn_profiled;
/* All threads' calls that begin from here on are noted, at most so many, for this owner, any number
 * but 0; DN_ERROR_STATE: they are already. */
int dn_profile_begin(int64_t most, int64_t owner);
/* Calls that end later are not noted. Returns how many were too many, or had no memory. Then the
 * others can be read. DN_ERROR_STATE: it is not this owner's profile, or none; nothing is done. */
int64_t dn_profile_end(int64_t owner);
int dn_profile_read(const dn_profiled **);
void dn_profile_free(void);

/* ---- where time goes (csrc/meter.c) -------------------------------------- */
/* What a process does: at each moment one of these. Compute is all that nobody says otherwise of;
 * agreement is the wait for other ranks, and their messages before gradients move. */
typedef enum dn_phase {
    DN_COMPUTE,
    DN_AGREEMENT,
    DN_EXCHANGE,
    DN_ROWS,
    DN_UPDATE,
    DN_SAVE,
    DN_EVALUATE,
    DN_PHASES
} dn_phase;
/* By phase, since the meter began: they add up to the time since then. Bytes of gradients that this
 * process has handed over to other ranks. */
typedef struct dn_reading {
    int64_t nanoseconds[DN_PHASES];
    int64_t bytes;
} dn_reading;
/* One thread is followed, the calling one from now on; what others do does not count. The clock is
 * the system's monotonic one, in nanoseconds. */
void dn_meter_follow(void);
int64_t dn_meter_now(void);
/* From now on it is in phase `to`. Returns the one before, to go back to; -1, which may be gone
 * back to, in a thread that is not followed. dn_meter_wait: agreement, if it is in compute. */
int dn_meter_switch(int to);
int dn_meter_wait(void);
void dn_meter_hand_over(int64_t bytes);
void dn_meter_read(dn_reading *);
/* Spans of phases are written to this descriptor when they have ended, at most so many: several at
 * once, those of the last 0.02 s with the first span that ends after that. -1: to none.
 * dn_meter_flush writes what is held, with the present span up to now; returns errno of a write
 * that has failed, after which nothing is written. */
typedef struct dn_span { int64_t begin, end, phase; } dn_span;
void dn_meter_record(int file, int64_t most);
int dn_meter_flush(void);
/* For tests: the clock stands still at this moment, from where the meter begins anew if it ran
 * before; below 0: it runs again. */
void dn_meter_pretend(int64_t now);

/* ---- signals that wait (csrc/signals.c) ---------------------------------- */
/* The signals that end programs. */
enum { DN_SIGNALS = 6 };
int dn_signals_number(int i);
/* A process has one handler that can be put off, in all threads, while something is under way that
 * it must not end in its midst: the one that this signal has now. 0: it has none. */
int dn_signals_defer(int number);
/* From now on it is not called for those signals; 0: there is none. Whether that is so, and how
 * many of them have come since then. It is called for them at once, as a signal would call it: at
 * the second one, or when they are released. Handlers that were set meanwhile stay. */
int dn_signals_hold(void);
int dn_signals_are_held(void);
int dn_signals_came(void);
void dn_signals_release(void);

/* ---- the ranks of one host (csrc/parallel/shm_comm.c) -------------------- */
/* The message of a rank before gradients are added up: this struct, then arrays. `hash` and `flags`
 * are nearly always the same on all ranks. */
typedef struct dn_rank_message {
    double weight;    /* of this rank's gradients */
    dn_reading meter; /* this rank's, of when the message is written; not read before */
    /* of what must be equal on all ranks: the caller's hash, mixed with whether each parameter is
     * frozen, excluded from the trainer's decay, its precision, and whether a table's decay is
     * multiplied into its rows */
    int64_t hash;
    int64_t flags; /* Flag of parallel/agreement/message.py */
} dn_rank_message;
typedef struct dn_rank_message_layout { /* in bytes, where the arrays begin */
    int64_t rows;                       /* an int32_t per table: how many rows have a gradient */
    int64_t filled, size;               /* a byte per dense parameter: whether it has a gradient */
} dn_rank_message_layout;
/* dense ones first */
typedef struct dn_members {
    int n_dense, n_tables;
    dn_param *const *params;
    const dn_trainer *trainer; /* NULL: none */
} dn_members;
dn_rank_message_layout dn_rank_message_layout_of(int n_dense, int n_tables);
void dn_rank_message_write(const dn_rank_message *, const dn_members *, void *out);
/* What the hash says of a parameter: a sum of these, and DN_PRECISION_IS times its precision. */
enum dn_param_state {
    DN_IS_FROZEN = 1,
    DN_IS_EXCLUDED = 2,
    DN_IS_SETTLED = 4,
    DN_PRECISION_IS = 8
};
int dn_param_state(const dn_members *, int i);

/* The cached plan of the steady state: how the ranks of one host add up gradients. All pointers are
 * the caller's. Up to `buffers` it is constant; the rest is what was agreed on for the present
 * update. */
typedef struct dn_gradient_slot {
    int chunk;
    int64_t offset, length;
} dn_gradient_slot;
/* [rank]: for a table's rows */
typedef struct dn_shared_buffer {
    dn_real *const *rows;
    int *const *ids;
    int64_t capacity;
} dn_shared_buffer;
typedef struct dn_shm_comm_plan {
    dn_members of;
    int ranks, rank;
    /* of the dense parameters, as in dn_chunk_gradients */
    const dn_gradient_slot *places;
    dn_real *const *const *segments; /* [chunk][rank] */
    dn_shared_buffer *buffers;       /* [table]; capacity 0: none yet */
    const uint8_t **filled;          /* [rank][dense parameter]: whether it has a gradient */
    int32_t *rows;                   /* (rank, table): how many rows have a gradient */
    double *factors;                 /* [rank]: what its gradients are multiplied by */
    dn_reading *meters;              /* [rank]: as its message says */
    dn_real *squares;  /* in shared memory: of pieces, see dn_store_pieces; NULL: none */
    void *row_squares; /* the same of rows */
} dn_shm_comm_plan;
/* A communicator sends and receives messages in memory that its ranks share. What the others have
 * sent may be read until this rank sends the next. */
typedef struct dn_shm_comm dn_shm_comm;
/* of that memory, for messages of up to so many bytes; it begins as zeros, 64-aligned */
int64_t dn_shm_comm_bytes(int ranks, int64_t most);
/* NULL: out of memory */
dn_shm_comm *dn_shm_comm_new(int ranks, int rank, void *memory, int64_t most);
void dn_shm_comm_free(dn_shm_comm *);
/* Whether all ranks have sent as much as this one; looks for so many seconds. */
int dn_shm_comm_received(dn_shm_comm *, double seconds);
const uint8_t *dn_shm_comm_message(dn_shm_comm *, int rank);

/* WAITS: for another rank; call again when dn_shm_comm_received, with the same arguments. NO_PLAN:
 * messages must be read. */
enum dn_shm_comm_outcome { DN_SHM_COMM_DONE, DN_SHM_COMM_WAITS, DN_SHM_COMM_NO_PLAN };
/* Sends this rank's message and receives the others'. DONE: all are alike and rows fit into the
 * windows of the plan, which holds now what was agreed on; factors are weight / sum of weights with
 * `average`, else 1, or 0 for weight 0. NO_PLAN otherwise. The outcome is the same on all ranks. No
 * gradient is changed. DN_ERROR_VALUE: the message is too long. */
int dn_shm_comm_negotiate(dn_shm_comm *, const dn_rank_message *, const dn_members *,
                          dn_shm_comm_plan *, int average, double seconds);
/* By the plan of the present update: gradients become their sums, times the factors; of an open
 * trainer that takes pieces this rank's alone. DN_ERROR_MEMORY; DN_ERROR_VALUE: too many ranks. */
int dn_shm_comm_sum(dn_shm_comm *, dn_shm_comm_plan *, double seconds);
/* A barrier, then dn_trainer_close: DONE or WAITS. DONE at once if the trainer is not open. */
int dn_shm_comm_close(dn_shm_comm *, dn_trainer *, int n, dn_param *const *params, double seconds);

/* What makes an update once ranks have agreed as planned, and how far it is: the next of these
 * steps, or that which has failed. */
typedef struct dn_follow_up {
    dn_trainer *trainer;
    int stage, error; /* the first stage is 0 */
} dn_follow_up;
enum dn_follow_up_stage {
    DN_FOLLOW_UP_AGREE,
    DN_FOLLOW_UP_SUM,
    DN_FOLLOW_UP_UPDATE,
    DN_FOLLOW_UP_CLOSE,
    DN_FOLLOW_UP_DONE
};
/* As dn_shm_comm_negotiate; then, where that is DONE, the rest of the update: dn_shm_comm_sum,
 * dn_trainer_update, dn_shm_comm_close. WAITS: in any of them. What fails after ranks have agreed
 * is in `error`. */
int dn_shm_comm_update(dn_shm_comm *, const dn_rank_message *, const dn_members *,
                       dn_shm_comm_plan *, int average, dn_follow_up *, double seconds);
