"""Being one of several processes: who they are, what becomes of them, where their time goes.

In reading order: hosts, user_line, rank_names, forks, mpi, world, memory, places, alive, failures,
trace, timeline, saving, session, signals, rng_streams, environment, and trial for
`dist-dynet check`.
"""
