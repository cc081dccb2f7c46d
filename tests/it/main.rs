//! t

mod architecture;
