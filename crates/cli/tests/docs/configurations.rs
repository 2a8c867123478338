//! Every configuration that the documentation shows has no fault.

use crate::{Block, pages};
use marca_config::plan::Plan;
use std::fmt::Write;

#[test]
fn every_configuration_in_the_documentation_has_no_fault() {
    let mut whole = 0;
    for page in pages() {
        for block in page.blocks("toml") {
            let text = completed(&block);
            whole += usize::from(text == block.text.join("\n"));
            let loaded = marca_config::load(&block.place, &text).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
            assert!(loaded.warnings.is_empty(), "{}\n{text}", loaded.warnings);
            Plan::of(&loaded.config).unwrap_or_else(|error| panic!("{}: {error}", block.place));
        }
    }
    assert!(whole > 2, "{whole}");
}

/// With what a fragment leaves out: the director, and real servers of the VIPs' families. What it has stays as it is.
fn completed(block: &Block) -> String {
    let mut text = block.text.join("\n");
    let table: toml::Table = text.parse().unwrap_or_else(|fault| panic!("{}: {fault}", block.place));
    for (name, service) in table.get("service").and_then(toml::Value::as_table).into_iter().flatten() {
        if service.get("server").is_none() {
            let v6 = service.get("vip").is_some_and(|vip| vip.to_string().contains(':'));
            let address = if v6 { "['10.0.0.11', 'fd00::11']" } else { "'10.0.0.11'" };
            let _ = write!(text, "\n[[service.{name}.server]]\naddress = {address}\n");
        }
    }
    let lacks = |key: &str| !table.contains_key(key);
    if lacks("service") {
        text += "\n[service.shop]\nvip = '192.0.2.10'\nports = 'tcp/80'\nserver = [{ address = '10.0.0.11' }]\n";
    }
    if lacks("router") {
        text += "\n[router]\noutside = 'eth0'\ninside = 'eth1'\n";
    }
    text
}
