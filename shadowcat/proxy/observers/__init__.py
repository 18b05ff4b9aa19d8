"""What is told about exchanges: access log and traces."""
