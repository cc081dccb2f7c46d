//! Domain types, registry, log, leases, checkpoints and attempts, with the embedded backend.
