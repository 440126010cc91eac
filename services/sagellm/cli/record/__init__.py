"""`sagellm record`: live traffic as a trace that `sagellm simulate` reads."""
