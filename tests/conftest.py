"""Settings for all tests."""

from hypothesis import settings

# A deadline per example measures the machine's other work as much as the code.
settings.register_profile("shadowcat", deadline=None)
settings.load_profile("shadowcat")
