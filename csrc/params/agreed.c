#include "params/rules.h"

void dn_trainer_together(dn_trainer *t, int on) { t->together = on; }
void dn_trainer_set_updates(dn_trainer *t, int64_t updates) { t->updates = updates; }
