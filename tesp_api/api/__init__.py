"""The HTTP face: TES 1.1 under /ga4gh/tes/v1, TES 1.0 under /v1, Swagger UI at /."""
