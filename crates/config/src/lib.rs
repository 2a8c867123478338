//! TOML text → model → plan. Pure: reads no file, asks no kernel.
//!
//! [`load`] is the way in. It reads in three steps, each a module: `decode` (keys, types, single values, all with
//! their place in the file), `check` (what contradicts what), and the [`model`], which has neither places nor
//! contradictions. All faults of a file are reported at once, and a file with a fault yields nothing.
//!
//! ```
//! let loaded = marca_config::load(
//!     "marca.toml",
//!     r#"
//!     [router]
//!     outside = "eth0"
//!
//!     [service.shop]
//!     vip   = "192.0.2.10"
//!     ports = ["tcp/80", "tcp/443"]
//!
//!     [[service.shop.server]]
//!     address = "10.0.0.11"
//!     "#,
//! )?;
//! assert_eq!(loaded.config.services[0].name, "shop");
//!
//! let refused = marca_config::load("marca.toml", "[router]\noutsid = 'eth0'").unwrap_err();
//! assert!(refused.render(false).contains("did you mean `outside`?"));
//! # Ok::<(), marca_config::Diagnostics>(())
//! ```

pub mod change;
mod check;
mod decode;
mod diagnostic;
mod draft;
pub mod keys;
pub mod model;
mod pieces;
pub mod plan;
mod similar;
mod syntax;
pub mod text;

pub use diagnostic::{Diagnostic, Diagnostics, Label, Level, MAX_RENDERED, Span};

/// A file that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: model::Config,
    /// What probably was not meant; no errors among them.
    pub warnings: Diagnostics,
}

/// Reads a configuration. `file` is the name to print, `text` its content.
///
/// # Errors
/// All faults of the file, with the warnings among them, in the order of the file. A fault of syntax is reported
/// alone, as nothing after it can be trusted.
pub fn load(file: &str, text: &str) -> Result<Loaded, Diagnostics> {
    let root = match syntax::parse(text) {
        Ok(root) => root,
        Err(diagnostic) => return Err(Diagnostics::new(file, text, vec![*diagnostic])),
    };
    let (draft, mut found) = decode::decode(text, &root);
    found.extend(check::check(&draft));
    let found = Diagnostics::new(file, text, found);
    if found.has_errors() {
        return Err(found);
    }
    Ok(Loaded { config: draft::finish(draft), warnings: found })
}
