//! The deliverer: leases partitions, matches events, signs and sends webhooks.
