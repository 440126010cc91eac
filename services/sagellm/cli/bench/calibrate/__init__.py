"""`sagellm bench calibrate`: a cost model for the simulator, from an instance that runs."""
