//! What an operator sees: whole files in, models or drawn diagnostics out.

mod any_text;
mod good_files;
mod refused_files;
