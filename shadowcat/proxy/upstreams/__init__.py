"""An upstream's side: choosing, connecting, sending, and what becomes of it."""
