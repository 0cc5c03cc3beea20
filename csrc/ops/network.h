/* What the kinds of recurrent networks differ in. */
#ifndef DN_NETWORK_H
#define DN_NETWORK_H

#include "../kernels/kernels.h"
#include "../op.h"

typedef enum dn_factor { DN_OF_H_BEFORE, DN_OF_C_BEFORE, DN_OF_C_NOW, DN_OF_EXTRA } dn_factor;

typedef struct dn_network {
    const char *takes, *rule;                                  /* the weights' names, and what they must be */
    int weights;                                               /* how many inputs are */
    int has_c, has_extra, has_peepholes;
    int gates;                                                 /* rows of all blocks together, in h */
    int n_blocks;
    struct { int rows, wx, b; } blocks[3];                     /* rows in h; inputs */
    int n_products;
    struct { int w, block; dn_factor factor; } products[5];    /* matrices that multiply the state; in the order that the kernels take */
    void (*forward)(const dn_sequence *, const dn_real *const *w, const double *reals);
    void (*backward)(const dn_sequence *, const dn_real *const *w);
} dn_network;

#endif
