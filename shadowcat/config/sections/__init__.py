"""The sections of the configuration, one file per subject; model.py puts them together."""
