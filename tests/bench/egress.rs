//! The way out: the same client beside the origin, and in a sandbox, whose requests are intercepted, judged, given a
//! credential and recorded.

use std::process::Command;
use std::time::Duration;

use super::host::{Host, Mode, Origin, Serving, text};
use super::{Failure, ROLE, Series, print};

const ROUNDS: usize = 5;

pub(super) fn run() -> Result<(), Failure> {
    let mode = if nix::unistd::geteuid().is_root() { Mode::Root } else { Mode::Rootless };
    let host = Host::new(mode);
    let program = std::env::current_exe()?;
    let mut command = Command::new(&program);
    let origin = Origin::start_with(command.env(ROLE, "origin"));
    let (config, policy) = origin.documents(&host, "a-token");
    let path = |path: &std::path::Path| path.display().to_string();
    let serving = Serving::start(&host, &["--config", &path(&config)])?;
    host.ok(&["create", "net", "--policy", &path(&policy)]);
    host.ok(&["cp", &path(&program), "net:/workspace/load"]);
    let place = Place { host: &host, origin: &origin, program: &path(&program) };
    place.compare("1 KiB GET, 32 connections kept alive, each", ["32", "20000", "/stream/1024"], 20_000)?;
    place.compare("1 KiB GET, one connection kept alive, each", ["1", "4000", "/stream/1024"], 4_000)?;
    place.compare("100 MB download", ["1", "1", "/stream/100000000"], 1)?;
    drop(serving);
    Ok(())
}

struct Place<'a> {
    host: &'a Host,
    origin: &'a Origin,
    program: &'a str,
}

impl Place<'_> {
    fn compare(&self, title: &str, load: [&str; 3], requests: u32) -> Result<(), Failure> {
        let mut series = [Series::new("direct"), Series::new("intercepted")];
        for _round in 0..ROUNDS {
            series[0].taken.push(self.direct(load)? / requests);
            series[1].taken.push(self.intercepted(load)? / requests);
        }
        print(title, &series);
        for row in &series {
            println!("{:<44} {:>9.0} per second", row.name, 1.0 / row.median().as_secs_f64());
        }
        Ok(())
    }

    fn direct(&self, load: [&str; 3]) -> Result<Duration, Failure> {
        let (port, roots) = (self.origin.port.to_string(), self.origin.authority());
        let mut command = Command::new(self.program);
        command.env(ROLE, "load").args([Origin::NAME, "127.0.0.1", &port]).arg(roots).args(load);
        took(&command.output()?)
    }

    fn intercepted(&self, load: [&str; 3]) -> Result<Duration, Failure> {
        let port = self.origin.port.to_string();
        let role = format!("{ROLE}=load");
        let roots = "/etc/ssl/certs/ca-certificates.crt";
        let mut arguments = vec!["exec", "net", "--", "env", &role, "/workspace/load", Origin::NAME];
        arguments.extend([Origin::NAME, &port, roots]);
        arguments.extend(load);
        took(&self.host.output(&arguments))
    }
}

fn took(output: &std::process::Output) -> Result<Duration, Failure> {
    if !output.status.success() {
        return Err(text(&output.stderr).into());
    }
    Ok(Duration::from_nanos(text(&output.stdout).trim().parse()?))
}
