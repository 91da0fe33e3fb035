"""The sandbox: a throwaway server for integrators, whose surroundings a test can observe and control."""
