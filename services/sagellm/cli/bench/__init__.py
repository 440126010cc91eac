"""`sagellm bench`: a load generator that is not the bottleneck, and honest numbers."""
