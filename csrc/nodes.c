/* The extension that keeps Python's lock: the node-making calls, forwarded through the table of the extension that holds csrc. A cffi call
 * that gives the lock up and takes it again costs twice as much as the work of making a node. */
#include "dn_api.h"

/* read by what build_ffi.py writes around these calls */
int dn_lists_decline;
int64_t dn_lists_declined;

static const dn_node_calls *calls;
void dn_bind(void *table, int fast) {
    calls = table;
    dn_lists_decline = !fast;
}
int64_t dn_declined_lists(void) { return dn_lists_declined; }

#define DN_NODE_FORWARD(result, name, params, args) \
    result dn_##name params { return calls->name args; }
DN_NODE_CALLS(DN_NODE_FORWARD)
