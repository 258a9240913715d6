//! HAProxy in front of the cluster, with the configuration we ship.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;
use crate::host::log_file;
use crate::wait::wait_until;

/// Port for writes.
pub const WRITE_PORT: u16 = 5000;
/// Port for reads.
pub const READ_PORT: u16 = 5001;

/// A running HAProxy on the clients' host.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
}

impl Proxy {
    /// Starts it with `config/haproxy.cfg`, its server lines replaced by the cluster's members.
    ///
    /// # Errors
    /// HAProxy is not installed or refuses the file.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/haproxy.cfg");
        let shipped = std::fs::read_to_string(&shipped).context("read config/haproxy.cfg")?;
        let file = cluster.folder.join("haproxy.cfg");
        std::fs::write(&file, with_servers(&shipped, cluster)).context("write haproxy.cfg")?;
        let program = ["/usr/sbin/haproxy", "/usr/bin/haproxy"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("HAProxy is not installed (cargo xtask setup)")?;
        let log = cluster.folder.join("haproxy.log");
        let output = log_file(&log)?;
        let mut command = cluster.clients.command(Path::new(program));
        command.arg("-db").arg("-f").arg(&file);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut child = command.spawn().context("start HAProxy")?;
        wait_until("HAProxy listens", Duration::from_secs(10), || {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("{status}: {}", crate::logs::tail(&log, 10)));
            }
            let asked = async {
                tokio::net::TcpStream::connect(("127.0.0.1", WRITE_PORT))
                    .await
                    .map(drop)
            };
            cluster.run(asked).map_err(|error| error.to_string())
        })?;
        if child.try_wait()?.is_some() {
            bail!("HAProxy ended: {}", crate::logs::tail(&log, 10));
        }
        Ok(Self { child })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Ended with the cluster in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each group of `server` lines becomes one line a member, with the options of the first line.
fn with_servers(shipped: &str, cluster: &Cluster) -> String {
    let mut text = String::new();
    let mut is_in_group = false;
    for line in shipped.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() != Some(&"server") {
            is_in_group = false;
            text.push_str(line);
            text.push('\n');
            continue;
        }
        if is_in_group {
            continue;
        }
        is_in_group = true;
        let options = words.get(3..).unwrap_or_default().join(" ");
        for member in cluster.members.iter().filter(|member| !member.is_witness) {
            let address = &member.host.address;
            text.push_str(&format!(
                "    server {} {address}:5432 {options}\n",
                member.name
            ));
        }
    }
    text
}
