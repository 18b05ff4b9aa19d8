"""HTTP/1.1 on the wire: strict reading, framing, rewriting. Pure: bytes in, decisions out."""
