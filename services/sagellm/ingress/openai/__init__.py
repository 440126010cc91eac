"""OpenAI's HTTP protocol: bodies in, requests for the pipeline, and answers out."""
