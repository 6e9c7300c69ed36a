"""The oneDNN inside Paddle's wheel, called through its C API; Paddle itself uses it for inference only."""
