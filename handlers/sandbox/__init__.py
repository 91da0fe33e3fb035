"""The integrator's test bench: what stands in for the environment outside."""
