"""Sessions as a worker's data plane uses them: found, lost, brought back; and their streams."""
