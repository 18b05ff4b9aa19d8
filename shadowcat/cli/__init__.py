"""Command lines, one file per command."""
