"""A client's side: connections, heads and bodies of requests, who may begin, answers of the proxy's own."""
