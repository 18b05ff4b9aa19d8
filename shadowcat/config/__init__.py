"""Configuration: the schema, where it is read from, and what makes it valid."""
