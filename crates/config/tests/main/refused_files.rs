//! `refused/*.toml` and `warned/*.toml`, each beside what is said about it. After a wanted change of the words:
//! `INSTA_UPDATE=always cargo test -p marca-config`, and read the difference.

use marca_config::{Diagnostics, Level, load};
use std::fmt::Write as _;
use std::path::Path;

/// Draws the diagnostics of every file of a directory, compares them with the `.snap` beside, and lets `check` look at
/// them.
fn each_file(directory: &str, diagnose: fn(&str, &str) -> Diagnostics) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(&directory);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let diagnostics = diagnose(&format!("{name}.toml"), &text);
        for diagnostic in &diagnostics {
            assert!(diagnostic.help.is_some(), "{name}: no next step for: {}", diagnostic.message);
        }
        settings.bind(|| insta::assert_snapshot!(name, diagnostics.render(false)));
    }
}

#[test]
fn a_refused_file_says_what_where_and_what_next() {
    each_file("refused", |name, text| load(name, text).expect_err(name));
}

#[test]
fn a_warning_does_not_stand_in_the_way() {
    each_file("warned", |name, text| {
        let warnings = load(name, text).expect(name).warnings;
        assert!(warnings.iter().all(|diagnostic| diagnostic.level == Level::Warning));
        assert!(!warnings.is_empty());
        warnings
    });
}

fn service_with_servers(servers: usize) -> String {
    let mut text = "[router]\noutside = 'eth0'\n[service.shop]\nvip = '192.0.2.10'\nports = 'tcp/80'\n".to_string();
    for index in 0..servers {
        let _ = write!(text, "[[service.shop.server]]\naddress = '10.0.{}.{}'\n", index / 256, index % 256);
    }
    text
}

#[test]
fn a_service_has_at_most_4096_servers() {
    assert!(load("f", &service_with_servers(4_096)).is_ok());
    let refused = load("f", &service_with_servers(4_097)).unwrap_err();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused.iter().next().unwrap().message, "the service has more than 4096 servers");
}

fn services(count: usize) -> String {
    let mut text = "[router]\noutside = 'eth0'\n".to_string();
    for index in 0..count {
        let vip = format!("192.0.{}.{}", index / 256, index % 256);
        let _ = write!(
            text,
            "[service.s{index}]\nvip = '{vip}'\nports = 'tcp/80'\nserver = [{{ address = '10.0.0.1' }}]\n"
        );
    }
    text
}

#[test]
fn a_file_has_at_most_10000_services() {
    assert_eq!(load("f", &services(10_000)).unwrap().config.services.len(), 10_000);
    let refused = load("f", &services(10_001)).unwrap_err();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused.iter().next().unwrap().message, "there are more than 10000 services");
}

#[test]
fn vips_times_ports_have_an_end() {
    let vips: Vec<String> = (0..1_025).map(|index| format!("'192.0.{}.{}'", index / 256, index % 256)).collect();
    let ports: Vec<String> = (1..1_025).map(|port| format!("'tcp/{port}'")).collect();
    let (vips, ports) = (vips.join(","), ports.join(","));
    let text = format!(
        "[router]\noutside = 'eth0'\n[service.s]\nvip = [{vips}]\nports = [{ports}]\nserver = [{{ address = '10.0.0.1' }}]"
    );
    let refused = load("f", &text).unwrap_err();
    assert_eq!(refused.iter().next().unwrap().message, "there are more than 1048576 pairs of a VIP and a port");
}

#[test]
fn a_file_with_thousands_of_faults_is_drawn_in_time() {
    let mut text = services(5_000).replace("192.0.", "999.0.");
    text.push_str(&services(5_000).replace("[service.s", "[service.t").replace("[router]\noutside = 'eth0'\n", ""));
    let refused = load("f", &text).unwrap_err();
    assert_eq!(refused.len(), 5_000);
    assert!(refused.render(false).ends_with("… and 4900 more\n"));
}
