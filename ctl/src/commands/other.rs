//! Small ones: dsn, version, demo.

use cluster_proto::v1;

use super::Context;
use super::members::server_version;
use crate::args::{Dsn, DsnRole};
use crate::exit::Stop;
use crate::output::{Align, Report, table};

/// `dsn`.
///
/// # Errors
/// Nobody answered, or there is no such member now.
pub async fn dsn(context: &Context, args: Dsn) -> Result<(), Stop> {
    let role = match args.role {
        DsnRole::Any => "any",
        DsnRole::Primary => "primary",
        DsnRole::Replica => "replica",
    };
    let answer = context
        .client
        .read(|mut admin| async move {
            admin
                .get_dsn(v1::DsnRequest {
                    role: role.to_owned(),
                })
                .await
        })
        .await?;
    let mut report = Report::single("dsn", &answer.dsn);
    report.data = serde_json::json!({ "dsn": answer.dsn, "epoch": answer.epoch });
    context.write(&report)
}

/// `version`: of this tool always, of the members as far as somebody answers.
///
/// # Errors
/// stdout cannot be written.
pub async fn version(context: &Context) -> Result<(), Stop> {
    let own = env!("CARGO_PKG_VERSION");
    let mut cells = vec![vec!["clusterctl".to_owned(), own.to_owned(), String::new()]];
    match context.status().await {
        Ok(status) => cells.extend(status.members.iter().map(|member| {
            let server = member
                .server_version
                .map(server_version)
                .unwrap_or_default();
            vec![member.name.clone(), member.version.clone(), server]
        })),
        Err(stop) => eprintln!("clusterctl: {stop}"),
    }
    let columns = [
        ("Who", Align::Left),
        ("Matriarch", Align::Left),
        ("PostgreSQL", Align::Left),
    ];
    let data = cells
        .iter()
        .map(|row| serde_json::json!({ "who": row[0], "version": row[1], "postgresql": row[2] }))
        .collect::<Vec<_>>();
    let mut rows = vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()];
    rows.extend(cells.clone());
    context.write(&Report {
        human: table("", &columns, &cells, context.paint),
        data: data.into(),
        rows,
    })
}

/// `demo`.
pub fn demo() -> Report {
    Report::single(
        "text",
        "In a checkout of the source, `cargo xtask demo` starts three members with real PostgreSQL on this\n\
         machine, shows who is primary and the connection string for psql, and says what to kill.\n\
         `cargo xtask demo --kill-primary` plays a failover by itself and prints how long writes were down.",
    )
}
