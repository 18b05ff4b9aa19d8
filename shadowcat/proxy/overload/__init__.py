"""What happens when more is asked for than the host can take."""
