//! The control plane: tenants, keys, codes, endpoints and events over gRPC.
