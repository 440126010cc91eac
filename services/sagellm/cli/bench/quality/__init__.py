"""`sagellm bench quality`: what quantization costs in perplexity."""
