//! The API as its document says, over the network: [schemathesis](https://schemathesis.io) makes requests of the document,
//! good and bad, and holds the answers against it.

use crate::site::Site;
use marca_testkit::topology::VIPS;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// From PyPI, with all that it needs.
const VERSION: &str = "4.32.5";

/// A body that is too large is refused before anybody looks into it.
const SETTINGS: &str = r#"
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "408", "413", "415", "422", "5xx"]
"#;

#[test]
fn the_api_does_what_its_document_says() {
    let program = installed();
    let mut site = Site::routed("api document", 2);
    let (certificate, key) = certificate(&site.dir);
    let (secret, token) = token(&["tester", "--access", "admin"]);
    let (read_secret, read_token) = self::token(&["reader"]);
    let configuration = format!(
        "{}[api]\nlisten = '127.0.0.1:8443'\ncertificate = '{certificate}'\nkey = '{key}'\n{token}\n{read_token}\n\
         [service.shop]\nvip = '{}'\nports = ['tcp/80', 'udp/53']\npersist = '5m'\n{}",
        site.router(),
        VIPS[0].v4,
        site.servers("shop"),
    );
    site.run(&configuration);
    let director = site.net.director();
    let curl = |arguments: &[&str]| {
        let mut command = director.command("curl");
        command.args(["-s", "-k", "--max-time", "20", "-w", "\n%{http_code}"]).args(arguments);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let status = "https://127.0.0.1:8443/v1/status";
    assert!(curl(&[status]).ends_with("\n401"), "{}", curl(&[status]));
    let bearer = |secret: &str| format!("Authorization: Bearer {secret}");
    assert!(curl(&["-H", &bearer("0000"), status]).ends_with("\n401"));
    assert!(curl(&["-H", &bearer(&read_secret), status]).ends_with("\n200"));
    let reload = "https://127.0.0.1:8443/v1/reload";
    assert!(curl(&["-H", &bearer(&read_secret), "-X", "POST", reload]).ends_with("\n403"));
    assert!(curl(&["-H", &bearer(&secret), "-X", "POST", reload]).ends_with("\n200"));

    fs::write(site.dir.join("schemathesis.toml"), SETTINGS).unwrap();
    let mut run = director.command(&program);
    run.args(["run", "https://127.0.0.1:8443/openapi.json", "--tls-verify", "false", "--header", &bearer(&secret)])
        // The stream has no end.
        .args(["--exclude-path", "/v1/events"])
        // Nor is there anybody to ask after this one.
        .args(["--exclude-operation-id", "stop"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1", "--workers", "1"])
        // Names of servers, durations and packets are good or bad beyond what a schema can say.
        .args([
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
            "--no-shrink",
            "--request-timeout",
            "20",
        ])
        .current_dir(&site.dir);
    let output = run.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(site.status().daemon().is_some(), "and the daemon has seen it all");

    // Without [api] nobody is there.
    site.reload(&configuration.replace("[api]\nlisten = '127.0.0.1:8443'\n", "[api]\n"));
    assert!(curl(&["-H", &bearer(&secret), status]).ends_with("\n000"));
}

/// A secret, and what the configuration says of it.
pub fn token(arguments: &[&str]) -> (String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_marca")).arg("token").args(arguments).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let (comment, token) = said.split_once("\n\n").unwrap();
    (comment.lines().nth(1).unwrap().trim_start_matches("# ").to_owned(), token.to_owned())
}

/// The program in a virtual environment among the build's files, made when it is not there.
fn installed() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("schemathesis-{VERSION}"));
    let (program, complete) = (folder.join("bin/st"), folder.join("complete"));
    if complete.exists() {
        return program;
    }
    let _ = fs::remove_dir_all(&folder);
    let done = |command: &mut Command| {
        let output = command.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {complaint}: this test needs python3-venv and PyPI");
    };
    done(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&folder));
    let package = format!("schemathesis=={VERSION}");
    done(Command::new(folder.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", &package]));
    fs::write(complete, "").unwrap();
    program
}

/// One of its own, and its key.
pub fn certificate(dir: &Path) -> (String, String) {
    let path = |name: &str| dir.join(name).display().to_string();
    let (certificate, key) = (path("api.crt"), path("api.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=director", "-keyout", &key, "-out", &certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}
