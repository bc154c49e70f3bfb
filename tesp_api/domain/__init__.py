"""What a task is and what may happen to it: pure, no input or output, no clock, no randomness."""
