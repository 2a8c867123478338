//! What an operator sees: whole files in, models or drawn diagnostics out.

mod any_text;
mod good_files;
mod mutated;
mod refused_files;
