"""Servers and doubles for tests, the demo and the load rig: real sockets, real protocols."""
