"""Checkpoints of a run: lease, files, ranks, parts, autosave, checkpointer."""
