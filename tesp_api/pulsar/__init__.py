"""Galaxy Pulsar as the runner of jobs: what crosses the wire, and the transports that carry it."""
