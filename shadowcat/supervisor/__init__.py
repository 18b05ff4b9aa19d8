"""Opens the sockets, forks the processes, watches and restarts them; carries no traffic itself."""
