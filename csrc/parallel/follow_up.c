/* An update of the ranks of one host in one call, where all is as planned. After a backward neither
 * Python's code nor its data are in the caches any more: each step of it that Python has to start
 * takes as long as the sums of a small model. */
#include "dn_api.h"

/* The call of this stage: its outcome, or an error. */
static int go_on(dn_shm_comm *comm, dn_shm_comm_plan *plan, dn_follow_up *u, double seconds) {
    switch (u->stage) {
    case DN_FOLLOW_UP_OPEN: {
        const int opened = u->window ? dn_trainer_open(u->trainer, u->squares, u->row_squares) : 0;
        dn_meter_switch(DN_EXCHANGE);
        return opened < 0 ? opened : DN_SHM_COMM_DONE;
    }
    case DN_FOLLOW_UP_SUM: {
        const int outcome = dn_shm_comm_sum(comm, plan, seconds);
        if (outcome == DN_SHM_COMM_DONE) dn_meter_switch(DN_UPDATE);
        return outcome;
    }
    case DN_FOLLOW_UP_UPDATE: {
        dn_trainer_together(u->trainer, 1);
        const int outcome = dn_trainer_update(u->trainer);
        dn_trainer_together(u->trainer, 0);
        return outcome;
    }
    default: return u->window ? dn_shm_comm_close(u->window, u->store, seconds) : DN_SHM_COMM_DONE;
    }
}

int dn_shm_comm_update(dn_shm_comm *comm, const dn_rank_message *message, const dn_members *of,
                       dn_shm_comm_plan *plan, int average, dn_follow_up *u, double seconds) {
    if (u->stage == DN_FOLLOW_UP_AGREE) {
        const int outcome = dn_shm_comm_negotiate(comm, message, of, plan, average, seconds);
        if (outcome != DN_SHM_COMM_DONE) return outcome;
        u->stage = DN_FOLLOW_UP_OPEN;
    }
    for (; u->stage < DN_FOLLOW_UP_DONE; u->stage++) {
        const int outcome = go_on(comm, plan, u, seconds);
        if (outcome == DN_SHM_COMM_WAITS) return outcome;
        if (outcome < 0) {
            u->error = outcome;
            break;
        }
    }
    return DN_SHM_COMM_DONE;
}
