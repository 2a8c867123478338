//! Protocols without I/O: bytes, events and `now` in; bytes, actions and deadlines out.
pub mod announce;
pub mod health;
