"""The admin listener: what is asked of it, and by whom."""
