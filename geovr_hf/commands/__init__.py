"""The subcommands of `geovr`, one module each, and what they share."""
