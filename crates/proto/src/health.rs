//! Health checks without I/O: what is said to a real server, what its answers mean, and when it is up or down for that.
//!
//! | module | owns |
//! |---|---|
//! | [`monitor`] | one check of one server: how many answers in a row make a change, and when it is asked again |
//! | [`member`] | one server of a service: what its checks together leave of it |
//! | [`talk`] | the conversations, each as bytes in and [`Step`](talk::Step)s out |

pub mod member;
pub mod monitor;
pub mod talk;
