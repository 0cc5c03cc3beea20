/* A lower bound on batches. Nodes of one signature that depend on one another, directly or by way
 * of any others, are computed in as many batches, whatever the order: so each signature takes at
 * least as many as the longest of its chains has nodes, and no batch counts for two signatures. */
#include "autobatch.h"

#include "agenda.h"

enum { MOST_WORK = 1 << 26 }; /* nodes looked at, over all signatures: some tenths of a second */

/* The most nodes of signature g that are on one way through the graph, which are among first ...
 * last. `on_way`: memory for a number of each node. */
static int longest_chain(const dn_agenda *s, int g, int first, int last, int32_t *on_way) {
    int longest = 0;
    for (int i = first; i <= last; i++) {
        const dn_waits_for in = s->inputs[i];
        const int begin = dn__begin_of(s, i);
        int most = begin >= first && begin < i ? on_way[begin] : 0;
        for (int k = in.at; k < in.at + in.n; k++) {
            const int x = s->edges[k];
            if (x >= first && on_way[x] > most) most = on_way[x];
        }
        on_way[i] = most + (s->sign[i] == g);
        if (on_way[i] > longest) longest = on_way[i];
    }
    return longest;
}

static int64_t sum_over_signatures(dn_agenda *s) {
    if (dn__count_edges(s) || (!s->as_dynet && dn__find_chains(s)) || dn__find_signatures(s, 0))
        return DN_ERROR_MEMORY;
    int32_t *on_way = dn__plan_take(s->t, (size_t)s->n, sizeof *on_way),
            *last = dn__plan_take(s->t, (size_t)s->n_signatures, sizeof *last);
    if (!on_way || !last) return DN_ERROR_MEMORY;
    int64_t batches = 0, work = MOST_WORK;
    for (int i = 0; i < s->n; i++) {
        if (s->sign[i] >= 0) last[s->sign[i]] = i;
        else batches += s->sign[i] != DN_IN_CHAIN;
    }
    for (int g = 0; g < s->n_signatures; g++) {
        const int first = s->signatures[g].node - s->first;
        work -= last[g] - first + 1;
        batches += work < 0 || s->signatures[g].count == 1
                       ? 1
                       : longest_chain(s, g, first, last[g], on_way);
    }
    return batches;
}

int64_t dn__least_batches(dn_tape *t) {
    const dn_arena_mark mark = dn__memory_mark(t, DN_PLAN);
    dn_agenda s = {.t = t, .n = t->schedule->evaluated, .as_dynet = t->schedule->as_dynet};
    const int64_t batches = s.n ? sum_over_signatures(&s) : 0;
    dn__memory_back_to(t, DN_PLAN, mark);
    return batches < 0 ? dn__no_memory(t) : batches;
}
