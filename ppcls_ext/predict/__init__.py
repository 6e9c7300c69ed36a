"""Classification with an exported file, without Paddle."""
