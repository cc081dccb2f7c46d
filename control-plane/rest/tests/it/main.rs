//! The transcoder in front of real tonic services, with the product's contract.

mod errors;
mod http;
mod network;
mod requests;
mod services;
mod streams;
