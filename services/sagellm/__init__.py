"""sageLLM's services: ingress, scheduler and worker, the broker they meet on, and the command line."""
