//! wrk: the load, and what it says of it.

use anyhow::{Context, Result, ensure};
use marca_testkit::topology::Namespace;

/// What to ask, and for how long.
pub struct Load<'u> {
    pub url: &'u str,
    pub seconds: u32,
    /// A connection for each request.
    pub close: bool,
}

/// What wrk has done.
#[derive(Debug, PartialEq)]
pub struct Said {
    pub requests: u64,
    /// Requests a second.
    pub rate: f64,
}

impl Load<'_> {
    pub fn run(&self, client: &Namespace) -> Result<Said> {
        let mut wrk = client.command("wrk");
        wrk.args(["--threads", "1", "--connections", "32", "--duration", &format!("{}s", self.seconds)]);
        if self.close {
            wrk.args(["--header", "Connection: close"]);
        }
        let output = wrk.arg(self.url).output().context("run wrk")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk: {said}{}", String::from_utf8_lossy(&output.stderr));
        Said::of(&said).with_context(|| format!("wrk said:\n{said}"))
    }
}

impl Said {
    fn of(text: &str) -> Result<Self> {
        let find = |prefix: &str| text.lines().find_map(|line| line.trim().strip_prefix(prefix)).map(str::trim);
        ensure!(find("Non-2xx or 3xx responses:").is_none(), "not all answers are good");
        // `Socket errors: connect 0, read 0, write 0, timeout 0`
        if let Some(errors) = find("Socket errors:") {
            let connect_or_timeout =
                errors.split(", ").filter(|e| e.starts_with("connect") || e.starts_with("timeout"));
            let bad = connect_or_timeout.filter(|e| !e.ends_with(" 0")).count();
            ensure!(bad == 0, "not all connections are good");
        }
        let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")).map(|(number, _)| number);
        Ok(Self {
            requests: requests.context("no number of requests")?.parse()?,
            rate: find("Requests/sec:").context("no rate")?.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 3s test @ http://192.0.2.10/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.02ms  417.05us   9.41ms   91.05%
    Req/Sec    31.72k     1.43k   33.71k    80.65%
  97813 requests in 3.10s, 21.92MB read
Requests/sec:  31553.27
Transfer/sec:      7.07MB
";

    #[test]
    fn requests_and_their_rate_are_read() {
        assert_eq!(Said::of(SAID).unwrap(), Said { requests: 97_813, rate: 31_553.27 });
    }

    #[test]
    fn bad_answers_and_connections_that_fail_are_no_measurement() {
        let with = |line: &str| Said::of(&format!("{SAID}{line}\n"));
        assert!(with("  Non-2xx or 3xx responses: 3").is_err());
        assert!(with("  Socket errors: connect 1, read 0, write 0, timeout 0").is_err());
        assert!(with("  Socket errors: connect 0, read 0, write 0, timeout 2").is_err());
        // The server has closed first, as it was asked to.
        assert!(with("  Socket errors: connect 0, read 7, write 0, timeout 0").is_ok());
        assert!(Said::of("nothing").is_err());
    }
}
