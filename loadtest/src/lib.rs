//! Load generators, counting receivers and ceilings for the published figures.
//!
//! Knows no crate of the product: it sees what any client sees, HTTP on a socket, so that the same tools measure
//! qrelay and whatever it is compared with. Everything is bounded in count and time, and speaks with loopback
//! addresses only.
//!
//! - [`scan`]: an open-loop generator of scans, corrected for coordinated omission;
//! - [`receiver`]: counts webhooks, distinct by id, and answers questions about them over HTTP;
//! - [`raw`]: a redirect that does nothing else, the ceiling of any HTTP server on this machine;
//! - [`isolation`]: the benchmark of a healthy endpoint beside others, of which some are bad;
//! - [`redirect`]: the benchmark of server CPU per redirect, qrelay beside nginx;
//! - [`posts`]: signed POSTs in a loop and nothing else, the ceiling of any sender of webhooks on this machine;
//! - [`deliveries`]: the benchmark of deliveries per second and per CPU-second beside that loop;
//! - [`latency`]: the benchmark of the time from a scan to its webhook at a fixed rate;
//! - [`cluster`]: the same across processes on a CQL cluster;
//! - [`backlog`]: the benchmark of an endpoint that catches up;
//! - [`codes`]: the benchmark of scans and a start with many codes, beside few;
//! - [`memory`]: the benchmark of what an idle process, a cached code and an idle endpoint hold;
//! - [`all`]: all of these, and their [`table`].

pub mod all;
pub mod arrivals;
pub mod backlog;
pub mod cassandra;
pub mod child;
pub mod cluster;
pub mod codes;
pub mod companions;
pub mod connection;
pub mod cpu;
pub mod deliveries;
pub mod figure;
pub mod isolation;
pub mod latency;
pub mod listeners;
pub mod machine;
pub mod median;
pub mod memory;
pub mod mix;
pub mod nginx;
pub mod posts;
pub mod product;
pub mod raw;
pub mod receiver;
pub mod redirect;
pub mod rest;
pub mod scan;
pub mod seeded;
pub mod serving;
pub mod table;
pub mod tally;
pub mod target;
