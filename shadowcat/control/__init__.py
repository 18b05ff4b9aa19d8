"""The control process: the admin listener. It may die at any time; all it knows is in shared memory."""
