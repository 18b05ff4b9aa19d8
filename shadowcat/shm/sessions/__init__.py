"""The session table: fixed slots in shared memory, addressed by the session id itself."""
