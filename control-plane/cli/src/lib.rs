//! The qrelay binary: a subcommand for each role, and the operator's commands.
