"""The version of the program, as `--version` and the API's description give it."""

VERSION = "0.1.0"
