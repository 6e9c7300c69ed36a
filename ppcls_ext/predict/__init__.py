"""Classifying with an exported file, without Paddle."""
