"""What is measured: perplexity and needle-in-a-haystack; imported as ``fwpkm_eval.tasks``."""
