"""The audit file."""
