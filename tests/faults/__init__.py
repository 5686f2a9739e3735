"""Whole trainings that something happens to."""
