"""One update of all ranks: gradients, accumulation, sync; and metrics of it."""
