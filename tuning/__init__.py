"""Hyper-parameter search under a budget of accelerator seconds."""
