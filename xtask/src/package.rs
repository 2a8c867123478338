//! `cargo xtask package`: a .deb and an .rpm of the program, by the distributions' own tools.
//!
//! Everything that goes in is laid out in one folder as it is to lie on the host; `dpkg-deb` and `rpmbuild` take it from
//! there. What belongs to a package and not to the program is in `packaging/`.

use crate::process::{build, root, run, target};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct Options {
    /// Packs the development build, as the tests do
    #[arg(long)]
    debug: bool,
    /// Installs, runs, reboots and removes the .deb in a Debian 12 under its own systemd (needs root)
    #[arg(long)]
    check: bool,
}

/// Debian packages of the tools.
pub const TOOLS: &[&str] = &["binutils", "cpio", "procps", "rpm", "systemd-container"];

pub fn package(options: &Options) -> Result<()> {
    crate::test::install(TOOLS)?;
    let program = if options.debug {
        // As the demonstration has it, so that cargo builds nothing twice.
        build(&["--package", "marca", "--package", "marca-testkit", "--bins"])?;
        target().join("debug/marca")
    } else {
        build(&["--release", "--package", "marca", "--bin", "marca"])?;
        target().join("release/marca")
    };
    crate::generate::run(&crate::generate::Options { check: false })?;
    let dir = target().join("package");
    let stage = Stage::new(dir.join("stage"), &program)?;
    let deb = stage.deb(&dir)?;
    let rpm = stage.rpm(&dir)?;
    println!("{}\n{}", deb.display(), rpm.display());
    if options.check { check(&deb, &rpm) } else { Ok(()) }
}

/// What CI does.
pub fn test() -> Result<()> {
    package(&Options { debug: true, check: true })
}

/// Under systemd in a container that has nothing of this host but its kernel.
fn check(deb: &Path, rpm: &Path) -> Result<()> {
    let system = crate::guest::root()?;
    let script = root().join("xtask/src/package/check.sh");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"]);
    run(command.arg(script).args([&system, deb, rpm]))
}

/// The tree as it is to lie on the host.
struct Stage {
    root: PathBuf,
}

impl Stage {
    fn new(stage: PathBuf, program: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(&stage);
        let this = Self { root: stage };
        let packaging = root().join("packaging");
        this.copy(program, "usr/bin/marca", 0o755)?;
        run(Command::new("strip").arg(this.root.join("usr/bin/marca")))?;
        for unit in ["marca.service", "marca-decap@.service"] {
            this.copy(&packaging.join("systemd").join(unit), &format!("usr/lib/systemd/system/{unit}"), 0o644)?;
        }
        this.copy(&packaging.join("example.toml"), "etc/marca/example.toml", 0o644)?;
        this.copy(&packaging.join("default-marca-decap"), "etc/default/marca-decap", 0o644)?;
        let pages = target().join(crate::generate::PAGES);
        for page in list(&pages.join("man"))? {
            this.copy(&page, &format!("usr/share/man/man1/{}", name(&page)), 0o644)?;
        }
        // Without a name and a time in them, so that the same pages give the same bytes.
        let man = this.root.join("usr/share/man/man1");
        run(Command::new("gzip").args(["-9", "--no-name"]).args(list(&man)?))?;
        let completions = pages.join("completions");
        this.copy(&completions.join("marca"), "usr/share/bash-completion/completions/marca", 0o644)?;
        this.copy(&completions.join("_marca"), "usr/share/zsh/site-functions/_marca", 0o644)?;
        this.copy(&completions.join("marca.fish"), "usr/share/fish/vendor_completions.d/marca.fish", 0o644)?;
        let docs = list(&root().join("docs"))?;
        for page in docs.into_iter().filter(|page| page.is_file()).chain([root().join("README.md")]) {
            this.copy(&page, &format!("usr/share/doc/marca/{}", name(&page)), 0o644)?;
        }
        this.copy(&root().join("LICENSE-MIT"), "usr/share/doc/marca/copyright", 0o644)?;
        this.copy(&root().join("LICENSE-APACHE"), "usr/share/doc/marca/LICENSE-APACHE", 0o644)?;
        Ok(this)
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let to = self.root.join(to);
        let dir = to.parent().context("a file has a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).with_context(|| format!("open {}", to.display()))
    }

    fn deb(&self, dir: &Path) -> Result<PathBuf> {
        let tree = dir.join("deb");
        let _ = fs::remove_dir_all(&tree);
        run(Command::new("cp").arg("-a").arg(&self.root).arg(&tree))?;
        // Debian's zsh looks elsewhere than everybody's.
        fs::create_dir_all(tree.join("usr/share/zsh/vendor-completions"))?;
        fs::rename(tree.join(ZSH), tree.join("usr/share/zsh/vendor-completions/_marca"))?;
        fs::remove_dir(tree.join("usr/share/zsh/site-functions"))?;
        let debian = tree.join("DEBIAN");
        fs::create_dir_all(&debian)?;
        for script in ["postinst", "prerm", "postrm"] {
            fs::copy(root().join("packaging/debian").join(script), debian.join(script))?;
            fs::set_permissions(debian.join(script), fs::Permissions::from_mode(0o755))?;
        }
        fs::write(debian.join("conffiles"), "/etc/marca/example.toml\n/etc/default/marca-decap\n")?;
        let architecture = said(Command::new("dpkg").arg("--print-architecture"))?;
        let size = said(Command::new("du").args(["-sk", "--apparent-size"]).arg(&self.root))?;
        let size = size.split_whitespace().next().unwrap_or("0");
        let libc = newest_glibc(&fs::read(self.root.join("usr/bin/marca"))?);
        let control = format!(
            "Package: marca\nVersion: {VERSION}\nArchitecture: {architecture}\nSection: net\nPriority: optional\n\
             Maintainer: the authors of marca <marca@localhost>\nInstalled-Size: {size}\n\
             Depends: libc6 (>= {libc}), libgcc-s1, passwd, init-system-helpers\nRecommends: ethtool, iproute2\n\
             Description: LVS router whose virtual services are many ports\n \
             A layer-4 load balancer in which one virtual service is many ports, so that a\n \
             client's HTTP, HTTPS and QUIC meet the same real server. It replaces kernel\n \
             IPVS, the packet-filter rules that mark packets for it, and the tool that\n \
             configures both; its data plane runs in XDP or TC.\n"
        );
        fs::write(debian.join("control"), control)?;
        let deb = dir.join(format!("marca_{VERSION}_{architecture}.deb"));
        run(Command::new("dpkg-deb").args(["--build", "--root-owner-group", "-Zxz", "-z3"]).arg(&tree).arg(&deb))?;
        Ok(deb)
    }

    fn rpm(&self, dir: &Path) -> Result<PathBuf> {
        let define = |name: &str, value: &Path| ["--define".to_owned(), format!("{name} {}", value.display())];
        let mut rpmbuild = Command::new("rpmbuild");
        rpmbuild.args(["-bb", "--quiet", "--target", std::env::consts::ARCH]);
        rpmbuild.args(define("_topdir", &dir.join("rpmbuild"))).args(define("_rpmdir", dir));
        rpmbuild.args(define("marca_version", Path::new(VERSION))).args(define("marca_stage", &self.root));
        run(rpmbuild.arg(root().join("packaging/rpm/marca.spec")))?;
        let arch = std::env::consts::ARCH;
        let rpm = dir.join(arch).join(format!("marca-{VERSION}-1.{arch}.rpm"));
        ensure!(rpm.exists(), "rpmbuild has not made {}", rpm.display());
        Ok(rpm)
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const ZSH: &str = "usr/share/zsh/site-functions/_marca";

/// The newest version of glibc's symbols that a program wants, by the names in its version table.
fn newest_glibc(program: &[u8]) -> String {
    let text = |at: usize| program[at..].iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.');
    let found = program.windows(GLIBC.len()).enumerate().filter(|(_, window)| *window == GLIBC);
    let versions = found.filter_map(|(at, _)| {
        let version: String = text(at + GLIBC.len()).map(|byte| char::from(*byte)).collect();
        let (major, minor) = version.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.split('.').next()?.parse::<u32>().ok()?))
    });
    let (major, minor) = versions.max().unwrap_or((2, 0));
    format!("{major}.{minor}")
}

const GLIBC: &[u8] = b"GLIBC_";

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(output.status.success(), "failed: {command:?}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_the_one_with_the_highest_number() {
        assert_eq!(newest_glibc(b"..GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_PRIVATE\0"), "2.34");
    }
}
