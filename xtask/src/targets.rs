//! Which targets of tests a package has, as cargo itself says.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::cargo;

/// Their names, in cargo's order.
///
/// # Errors
/// There is no such package.
pub fn of(package: &str) -> Result<Vec<String>> {
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("start cargo")?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("read what cargo says of the workspace")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let mut found = packages.filter(|it| it["name"] == package);
    let Some(found) = found.next() else {
        bail!("there is no package {package} in the workspace");
    };
    let targets = found["targets"].as_array().into_iter().flatten();
    Ok(targets
        .filter(|it| it["kind"][0] == "test")
        .filter_map(|it| it["name"].as_str().map(str::to_owned))
        .collect())
}
