//! Connection strings and the passfile, quoted. Passwords appear in the passfile only.

use cluster_core::model::postgres::Follows;
use cluster_core::model::{Epoch, MemberName};

use super::options::{PostgresOptions, Upstream};

/// Quotes a value of a libpq connection string.
pub fn quote_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Quotes a value of a configuration file (PostgreSQL doubles quotes and reads backslashes).
pub fn quote_setting(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Quotes an SQL identifier.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes an SQL literal.
pub fn quote_literal(text: &str) -> String {
    if text.contains('\\') {
        format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// What every connection to another member has in common: where, encryption, how long to wait.
fn base(options: &PostgresOptions, upstream: &Upstream, user: &str) -> Vec<(&'static str, String)> {
    let passfile = options.state_dir.join(super::config_files::PASSFILE);
    let mut pairs = vec![
        ("host", upstream.host.clone()),
        ("port", upstream.port.to_string()),
        ("user", user.to_owned()),
        ("passfile", passfile.display().to_string()),
        ("connect_timeout", "3".to_owned()),
        // A dead peer must be noticed in seconds, not hours (hazards section 8).
        ("keepalives_idle", "2".to_owned()),
        ("keepalives_interval", "1".to_owned()),
        ("keepalives_count", "3".to_owned()),
        ("tcp_user_timeout", "5000".to_owned()),
        ("gssencmode", "disable".to_owned()),
    ];
    let tls = &options.replication_tls;
    if let Some(mode) = &tls.sslmode {
        pairs.push(("sslmode", mode.clone()));
    }
    for (key, path) in [
        ("sslrootcert", &tls.root_certificate),
        ("sslcert", &tls.certificate),
        ("sslkey", &tls.key),
    ] {
        if let Some(path) = path {
            pairs.push((key, path.display().to_string()));
        }
    }
    pairs
}

fn join(pairs: &[(&'static str, String)]) -> String {
    let words: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={}", quote_value(value)))
        .collect();
    words.join(" ")
}

/// `primary_conninfo`. The upstream's own name travels as the fall-back application name, which
/// libpq ignores beside a real one, so that an observer can read back whom it follows.
pub fn streaming(options: &PostgresOptions, upstream: &Upstream) -> String {
    let mut pairs = base(options, upstream, &options.replication.name);
    pairs.push((
        "application_name",
        upstream.application_name(&options.member),
    ));
    pairs.push(("fallback_application_name", upstream.member.to_string()));
    join(&pairs)
}

/// The connection string of pg_basebackup.
pub fn basebackup(options: &PostgresOptions, upstream: &Upstream) -> String {
    let mut pairs = base(options, upstream, &options.replication.name);
    pairs.push(("application_name", format!("clone~{}", options.member)));
    join(&pairs)
}

/// The connection string of pg_rewind.
pub fn rewind(options: &PostgresOptions, upstream: &Upstream) -> String {
    let mut pairs = base(options, upstream, &options.rewind.name);
    pairs.push(("dbname", "postgres".to_owned()));
    pairs.push(("application_name", format!("rewind~{}", options.member)));
    join(&pairs)
}

/// Whom a `primary_conninfo` that we generated follows.
pub fn follows(conninfo: &str) -> Option<Follows> {
    let value = |key: &str| {
        let start = conninfo.find(&format!("{key}='"))?;
        // `fallback_application_name` ends like `application_name`: the key must begin a word.
        let start = if start > 0 && conninfo.as_bytes()[start - 1] != b' ' {
            start + 1 + conninfo[start + 1..].find(&format!(" {key}='"))? + 1
        } else {
            start
        };
        let rest = &conninfo[start + key.len() + 2..];
        rest.split('\'').next().map(str::to_owned)
    };
    let member: MemberName = value("fallback_application_name")?.parse().ok()?;
    let name = value("application_name")?;
    let epoch = name.rsplit('~').next()?.parse().ok()?;
    Some(Follows {
        member,
        epoch: Epoch(epoch),
    })
}

/// One line of a passfile, for any host and database.
fn passfile_line(user: &str, password: &str) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{}:{}\n", escape(user), escape(password))
}

/// The passfile of this member: the roles it uses towards others.
pub fn passfile(options: &PostgresOptions) -> String {
    [&options.replication, &options.rewind]
        .iter()
        .map(|role| passfile_line(&role.name, role.password.expose()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::options::{Role, Secret};
    use super::*;
    use cluster_core::model::Incarnation;

    fn options() -> PostgresOptions {
        let role = |name: &str| Role {
            name: name.into(),
            password: Secret::new("p:a\\ss"),
        };
        PostgresOptions::new(
            "n1".parse().expect("valid"),
            "/bin".into(),
            "/data".into(),
            "/state".into(),
            role("replicator"),
            role("rewinder"),
        )
    }

    fn upstream() -> Upstream {
        Upstream {
            member: "n-2".parse().expect("valid"),
            host: "10.0.0.2".into(),
            port: 5433,
            epoch: Epoch(12),
            incarnation: Incarnation(1),
            is_forward: false,
            slot: None,
        }
    }

    #[test]
    fn whom_we_follow_is_read_back_from_the_conninfo() {
        let text = streaming(&options(), &upstream());
        assert_eq!(
            follows(&text),
            Some(Follows {
                member: "n-2".parse().expect("valid"),
                epoch: Epoch(12)
            })
        );
        assert!(
            text.contains(" application_name='n1~00000001~12'"),
            "{text}"
        );
        assert_eq!(follows(""), None);
        assert_eq!(follows("host='x' application_name='walreceiver'"), None);
    }

    #[test]
    fn a_password_is_in_the_passfile_and_nowhere_else() {
        let options = options();
        for text in [
            streaming(&options, &upstream()),
            basebackup(&options, &upstream()),
            rewind(&options, &upstream()),
        ] {
            assert!(!text.contains("ss'") && !text.contains("p:a"), "{text}");
        }
        assert_eq!(
            passfile(&options),
            "*:*:*:replicator:p\\:a\\\\ss\n*:*:*:rewinder:p\\:a\\\\ss\n"
        );
    }

    #[test]
    fn quotes_cannot_be_broken_out_of() {
        assert_eq!(quote_value("a'b\\"), "'a\\'b\\\\'");
        assert_eq!(quote_setting("a'b\\"), "'a''b\\\\'");
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("a'b"), "'a''b'");
    }
}
