#include "roots.h"

int dn__retain_root(dn_tape *t, dn_root *root) {
    for (int i = 0; i < t->n.roots; i++)
        if (t->roots[i].root == root) return 0;
    if (DN_GROW(t->roots, t->capacity.roots, t->n.roots + 1)) return dn__no_memory(t);
    dn__root_retain(root);
    t->roots[t->n.roots++] = (dn_used_root){.root = root, .version = -1};
    return 0;
}

/* Another thread may hold some of the same roots and wait for others: so nobody waits while holding one. */
void dn__lock_roots(dn_tape *t) {
    int first = 0, i = 0;
    while (i < t->n.roots) {
        pthread_mutex_lock(&t->roots[first].root->lock);
        for (i = 0; i < t->n.roots; i++)
            if (i != first && pthread_mutex_trylock(&t->roots[i].root->lock)) break;
        if (i == t->n.roots) return;
        for (int k = 0; k < i; k++)
            if (k != first) pthread_mutex_unlock(&t->roots[k].root->lock);
        pthread_mutex_unlock(&t->roots[first].root->lock);
        first = i;
        i = 0;
    }
}
void dn__unlock_roots(dn_tape *t) {
    for (int r = t->n.roots - 1; r >= 0; r--) pthread_mutex_unlock(&t->roots[r].root->lock);
}
