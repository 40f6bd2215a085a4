"""Speed and memory of the memory operations against the dense reference, with the agreement checked first."""
