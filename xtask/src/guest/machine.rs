//! One boot of the guest: qemu's emulation, the host's folders by virtiofs, one command.

use super::root;
use crate::process::target;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What to run, and in what.
pub struct Job {
    /// For the guest's shell, as root. The host's target folder and sources are where they are on the host, read-only.
    pub command: String,
    pub processors: u32,
    pub memory_mib: u32,
    /// For the boot and the command together.
    pub limit: Duration,
    /// The guest's clock counts instructions, one a nanosecond, on its only processor: what is measured in the guest then
    /// depends neither on the host's speed nor on what else it does.
    pub counts_instructions: bool,
}

impl Job {
    /// Boots, runs the command, passes on what it writes; its exit status.
    ///
    /// # Errors
    /// The guest did not come up, died, or exceeded its time.
    pub fn run(&self) -> Result<i32> {
        let root = root::ensure()?;
        let session = Session::new(&root)?;
        fs::write(session.dir.join("command"), &self.command)?;
        let mut shares = Vec::new();
        for (tag, dir) in [("target", target()), ("sources", crate::process::root())] {
            shares.push(share(&session.dir, tag, &dir)?);
        }
        let mut guest = Ended(self.machine(&root, &session)?.spawn().context("start qemu-system-x86_64")?);
        let deadline = Instant::now() + self.limit;
        let mut output = File::open(session.dir.join("output"))?;
        loop {
            // In this order: what was written before the end is passed on after it.
            let ended = guest.0.try_wait()?;
            pass_on(&mut output)?;
            if ended.is_some() {
                break;
            }
            if Instant::now() > deadline {
                bail!("the guest has not ended after {} s", self.limit.as_secs());
            }
            sleep(Duration::from_millis(50));
        }
        let status = fs::read_to_string(session.dir.join("status")).unwrap_or_default();
        status.trim().parse().with_context(|| format!("the guest died; its console:\n{}", session.console()))
    }

    fn machine(&self, root: &Path, session: &Session) -> Result<Command> {
        let memory = format!("{}M", self.memory_mib);
        let mut qemu = until_we_end("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"])
            // Without five-level page tables, which the host's kernel may not know how to emulate quickly.
            .args(["-cpu", "max,la57=off", "-m", &memory]);
        if self.counts_instructions {
            qemu.args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-smp", "1"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi", "-smp", &self.processors.to_string()]);
        }
        // virtiofs wants memory that its daemon can map.
        qemu.args(["-object", &format!("memory-backend-memfd,id=memory,size={memory},share=on")])
            .args(["-numa", "node,memdev=memory"]);
        for tag in ["target", "sources"] {
            let socket = session.dir.join(tag);
            qemu.args(["-chardev", &format!("socket,id={tag},path={}", socket.display())])
                .args(["-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag}")]);
        }
        let append = format!(
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr guest.target={} guest.sources={} guest.root={} \
             guest.session={}",
            target().display(),
            crate::process::root().display(),
            root::ROOT,
            session.within_target()
        );
        qemu.arg("-kernel").arg(root.join("boot/vmlinuz")).arg("-initrd").arg(root.join("boot/initramfs"));
        qemu.args(["-append", &append, "-serial", &format!("file:{}", session.dir.join("console").display())]);
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(qemu)
    }
}

/// The folder that host and guest share for one boot; removed when dropped.
struct Session {
    dir: PathBuf,
    name: String,
}

impl Session {
    fn new(root: &Path) -> Result<Self> {
        let name = format!("session-{}", std::process::id());
        let dir = root.with_file_name(&name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let session = Self { dir, name };
        fs::write(session.dir.join("session.sh"), include_str!("session.sh"))?;
        File::create(session.dir.join("output"))?;
        Ok(session)
    }

    fn within_target(&self) -> String {
        format!("guest/{}", self.name)
    }

    /// The end of what the guest's kernel and first program said.
    fn console(&self) -> String {
        let text = fs::read(self.dir.join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("remove {}: {error}", self.dir.display());
        }
    }
}

/// A child that does not outlive its handle.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon that hands a folder to the guest, listening at the socket `tag` in the session's folder.
fn share(session: &Path, tag: &str, dir: &Path) -> Result<Ended> {
    // Debian 12's, and later ones'.
    let known = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];
    let program = known.iter().find(|path| Path::new(path).exists()).context("there is no virtiofsd")?;
    let socket = session.join(tag);
    let log = File::create(session.join(format!("{tag}.log")))?;
    let mut daemon = until_we_end(program);
    daemon
        .arg(format!("--socket-path={}", socket.display()))
        .args(["-o", &format!("source={},sandbox=chroot,cache=always,no_posix_lock", dir.display())])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut daemon = Ended(daemon.spawn().context("start virtiofsd")?);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        let said = || fs::read_to_string(session.join(format!("{tag}.log"))).unwrap_or_default();
        ensure!(daemon.0.try_wait()?.is_none() && Instant::now() < deadline, "virtiofsd does not listen: {}", said());
        sleep(Duration::from_millis(10));
    }
    Ok(daemon)
}

/// A program that the kernel ends when this process has ended, in whatever way.
fn until_we_end(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

fn pass_on(output: &mut File) -> Result<()> {
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&bytes)?;
    Ok(stdout.flush()?)
}
