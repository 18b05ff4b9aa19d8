"""What the control process finds out about upstreams by itself."""
