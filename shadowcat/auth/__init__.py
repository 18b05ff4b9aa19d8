"""Who a client is, by its bearer token: RFC 6750, 7519, 8725, 9068, 9728."""
