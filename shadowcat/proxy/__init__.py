"""The data plane: client connections, exchanges, upstream connections and what assembles them."""
