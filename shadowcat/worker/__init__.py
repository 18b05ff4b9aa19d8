"""What happens in a worker process between its fork and its end, apart from the data plane."""
