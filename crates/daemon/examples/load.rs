use marca_daemon::linux::data_plane::*;
use marca_tables::memory::Capacity;
fn main() {
    let dir = std::path::Path::new("/sys/fs/bpf/marca-try");
    let c = Capacity {
        addresses: 256,
        ports: 1024,
        half: 1024,
        services: 256,
        slots: 65536,
        servers: 4096,
        reals: 1024,
        flows: 1 << 16,
        half_open: 1 << 14,
        templates: 1 << 12,
    };
    let t = std::time::Instant::now();
    let r = DataPlane::load(dir, &c, 7);
    match r {
        Ok(mut p) => {
            let n = p.now();
            println!("ok {:?} {:?} {:?} {:?}", p.adopted, n, p.clock, t.elapsed())
        }
        Err(e) => {
            println!("{e}");
            let mut s: Option<&dyn std::error::Error> = Some(&e);
            while let Some(x) = s {
                println!(
                    ">> {}",
                    x.to_string().chars().rev().take(60000).collect::<String>().chars().rev().collect::<String>()
                );
                s = x.source();
            }
        }
    }
    detach(dir).unwrap();
}
