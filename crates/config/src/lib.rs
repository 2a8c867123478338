//! TOML text → model → plan. Pure: reads no file, asks no kernel.
pub mod model;
