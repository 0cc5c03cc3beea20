"""Being one of several processes: who they are, what becomes of them, where their time goes.

In reading order: hosts, user_line, rank_names, mpi, world, memory, failures, trace, timeline,
saving, own_models, session, signals, rng_streams, environment, and trial for `dist-dynet check`.
"""
