"""Shared memory: the only code that writes bytes which several processes see."""
