//! One binary for all end-to-end tests: a module per part of the product.

mod architecture;
mod fuzz_seeds;
