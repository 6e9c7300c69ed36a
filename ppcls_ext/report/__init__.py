"""Figures and pages about data, trainings and predictions, drawn by matplotlib and without Paddle."""
