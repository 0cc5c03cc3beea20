"""Batches: what part of one is a rank's, and which of them a loop is at.

In reading order: watched_list, batch_reads, division, shard_settings, micro_draws,
batches.
"""
