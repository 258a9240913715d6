//! Reports that are kept: `<database>/verification/<time>-<id>.json`, never changed.

use bytes::Bytes;

use super::Report;
use super::report::FORMAT;
use crate::restore::moment;
use crate::{Error, Put, Repository};

fn folder(database: u64) -> String {
    format!("{database}/verification")
}

/// Keeps it; says under which name.
///
/// # Errors
/// The store; one of this name is there.
pub async fn keep(repository: &Repository, report: &Report) -> Result<String, Error> {
    let second = report.began_unix_ms - report.began_unix_ms.rem_euclid(1000);
    let time = moment(second).replace(['-', ':'], "");
    let name = format!("{}/{time}-{}.json", folder(report.database), report.id);
    let text = serde_json::to_vec_pretty(report).map_err(|error| Error::BadDocument {
        name: name.clone(),
        why: error.to_string(),
    })?;
    match repository.put_new(&name, Bytes::from(text)).await? {
        Put::Stored => Ok(name),
        Put::WasThere => Err(Error::Refused(format!("{name} is there already"))),
    }
}

/// All of them, oldest first.
///
/// # Errors
/// The store; one that cannot be read.
pub async fn list(repository: &Repository) -> Result<Vec<Report>, Error> {
    let mut found = Vec::new();
    for database in repository.folders("").await? {
        let Ok(database) = database.parse() else {
            continue;
        };
        for name in repository.list(&folder(database)).await? {
            if let Some(text) = repository.get(&name).await? {
                found.push(parse(&name, &text)?);
            }
        }
    }
    found.sort_by_key(|report: &Report| report.began_unix_ms);
    Ok(found)
}

fn parse(name: &str, text: &[u8]) -> Result<Report, Error> {
    let bad = |why: String| Error::BadDocument {
        name: name.to_owned(),
        why,
    };
    let report: Report = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
    match report.format {
        FORMAT => Ok(report),
        other => Err(bad(format!("format {other}; this version knows {FORMAT}"))),
    }
}
