"""A real OAuth 2.1 authorization server for tests: users approve at once, and it lies when told to.

It needs the packages of the `mock` extra; `options`, `client` and `flow` do not.
"""
