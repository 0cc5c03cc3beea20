#include "params/rules.h"

void dn_trainer_set_updates(dn_trainer *t, int64_t updates) { t->updates = updates; }
