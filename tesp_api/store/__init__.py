"""Where tasks are kept: an embedded SQLite file or MongoDB, two adapters of one port."""
