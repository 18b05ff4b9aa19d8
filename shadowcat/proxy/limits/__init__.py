"""Limits in the data plane: what a client may ask for, and what it is told beyond that."""
