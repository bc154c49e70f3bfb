"""What runs on the node: one file, sent there as it is; nothing imports it."""
