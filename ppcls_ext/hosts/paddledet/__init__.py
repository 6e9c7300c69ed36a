"""PaddleDetection: our nets as its backbones, and what it needs on today's Paddle."""
