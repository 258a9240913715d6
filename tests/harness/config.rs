//! The configuration file of a member, and HAProxy's, as the tests write them.

use std::path::Path;

use crate::member::{GRPC_PORT, HTTP_PORT, POSTGRES_PORT};

/// Token that every verb which changes something must show.
pub const TOKEN: &str = "a-token-of-the-tests-only-0123456789";
/// The cluster's own secret.
pub const SECRET: &str = "a-secret-of-the-tests-only-0123456789";
/// Password of every PostgreSQL role the tests use.
pub const PASSWORD: &str = "only-for-tests";

/// Where the guard's unit has its socket.
pub const GUARD_SOCKET: &str = "/run/clusterd/guard.sock";

/// What one member's file says.
#[derive(Debug)]
pub struct ConfigOptions<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Name of the member.
    pub member: &'a str,
    /// Its address.
    pub address: &'a str,
    /// All members: name and address.
    pub members: &'a [(String, String)],
    /// Those of them that are witnesses.
    pub witnesses: &'a [String],
    /// `fast`, `lan`, `wan`.
    pub preset: &'a str,
    /// Address that its gRPC and HTTP listen on.
    pub listen: &'a str,
    /// The daemon's own durable state.
    pub state_dir: &'a Path,
    /// The data directory.
    pub data_dir: &'a Path,
    /// Whether the service manager starts the guard, as the installed units do.
    pub has_guard_unit: bool,
    /// PostgreSQL's programs.
    pub bin: &'a Path,
    /// Network that clients come from.
    pub clients: &'a str,
    /// How they log in: `trust` where many connect again and again, because computing a password's
    /// proof in an unoptimised build would be what is measured.
    pub client_login: &'a str,
}

/// The whole file.
pub fn clusterd_toml(options: &ConfigOptions<'_>) -> String {
    let ConfigOptions {
        cluster,
        member,
        address,
        preset,
        clients,
        listen,
        ..
    } = options;
    let (state_dir, data_dir) = (options.state_dir.display(), options.data_dir.display());
    let bin = options.bin.display();
    let kind = |name: &str| match options.witnesses.iter().any(|witness| witness == name) {
        true => "witness",
        false => "database",
    };
    let mut text = format!(
        r#"cluster = "{cluster}"
name = "{member}"
kind = "{}"
state_dir = "{state_dir}"
preset = "{preset}"

[listen]
grpc = "{listen}:{GRPC_PORT}"
http = "{listen}:{HTTP_PORT}"

[security]
cluster_secret = "{SECRET}"
admin_token = "{TOKEN}"
"#,
        kind(member)
    );
    if let Ok(level) = std::env::var("MATRIARCH_LOG") {
        text.push_str(&format!("\n[log]\nlevel = \"{level}\"\n"));
    }
    if kind(member) == "database" {
        text.push_str(&format!(
            r#"
[postgres]
bin_dir = "{bin}"
data_dir = "{data_dir}"
listen = ["{address}"]
port = {POSTGRES_PORT}
os_user = "postgres"
superuser_password = "{PASSWORD}"
replication_password = "{PASSWORD}"
rewind_password = "{PASSWORD}"
hba = ["host all all {clients} {}"]

[postgres.parameters]
# Killed servers must leave no shared memory outside their folders.
dynamic_shared_memory_type = "mmap"
"#,
            options.client_login
        ));
        if options.has_guard_unit {
            text.push_str(&format!(
                "\n[guard]\nstarted_by = \"service\"\nsocket = \"{GUARD_SOCKET}\"\n"
            ));
        }
    }
    for (name, address) in options.members {
        text.push_str(&format!(
            "\n[[members]]\nname = \"{name}\"\nkind = \"{}\"\npeer = \"{address}:{GRPC_PORT}\"\n",
            kind(name)
        ));
    }
    text.push('\n');
    text
}
