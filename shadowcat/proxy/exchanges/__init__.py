"""From a request to its answer: one class for each kind of request."""
