"""Which batch an update belongs to, and which part of it is a rank's.

In reading order: watched_list, batch_reads, division, shard_settings, micro_draws, batches,
sources.
"""
