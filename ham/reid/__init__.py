"""Retrieval: losses, the two methods IRRA and RDE, data, training, evaluation, search."""
