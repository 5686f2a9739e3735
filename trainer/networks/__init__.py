"""The motion RNN and the frame generator, in one module."""
