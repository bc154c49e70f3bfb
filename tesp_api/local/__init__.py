"""The whole stack on one machine: a Pulsar of its own, an engine that works, an example."""
