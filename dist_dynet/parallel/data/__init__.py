"""Data and collective operations: fingerprint, data_marks, sampling, collectives, evaluation."""
