/* The extension that keeps Python's lock: the node-making calls, forwarded through the table of the extension that holds csrc. A cffi call
 * that gives the lock up and takes it again costs twice as much as the work of making a node. */
#include "dn_api.h"

static const dn_node_calls *calls;
void dn_bind(void *table) { calls = table; }

#define DN_NODE_FORWARD(result, name, params, args) \
    result dn_##name params { return calls->name args; }
DN_NODE_CALLS(DN_NODE_FORWARD)

#define DN_UNARY_FORWARD(name) \
    int64_t dn_unary_##name(int64_t a) { return calls->node1(DN_OP_##name, a); }
#define DN_UNARY_ITEM DN_UNARY_FORWARD
#include "op_list.h"

/* Which graph is a thread's is decided above; it is kept here because asking for it above costs as much as making a node. */
static _Thread_local int current = -1;
void dn_set_current(int graph) { current = graph; }
int dn_current(void) { return current; }
#define DN_NOW(call) (current < 0 ? DN_ERROR_NO_GRAPH : (call))
int dn_now_renew(void) { return DN_NOW(calls->renew(current)); }
int64_t dn_now_scalar(double value) { return DN_NOW(calls->input_scalar(current, value)); }
int64_t dn_now_zeros(int n) { return DN_NOW(calls->input_zeros(current, n)); }
int64_t dn_now_lookup(int64_t table, int row) { return DN_NOW(calls->lookup(current, table, row)); }
