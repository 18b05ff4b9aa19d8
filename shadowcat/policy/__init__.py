"""Pure policy: data in, verdict out."""
