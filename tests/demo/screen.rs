//! The live view: the cluster's own list, printed again when it changes, until Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use cluster_tests::Cluster;
use cluster_tests::cluster::members_of;
use serde_json::Value;

/// Shows changes until somebody presses Ctrl-C; then returns, so that all is cleaned up.
pub fn show_until_interrupted(cluster: &mut Cluster) -> Result<()> {
    let is_over = Arc::new(AtomicBool::new(false));
    let flag = is_over.clone();
    // Spawned, not awaited: the screen goes on meanwhile.
    cluster.start_task(async move {
        // Without a signal handler Ctrl-C ends us at once, and the cleaner does the rest.
        if tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, Ordering::SeqCst);
        }
    });
    println!("Try, in another terminal, and watch this one:");
    for member in &cluster.members {
        if let Ok(pid) = member.postmaster_pid() {
            println!("  sudo kill -9 {pid}    # PostgreSQL of {}", member.name);
        }
    }
    println!("Ctrl-C ends everything and leaves nothing behind.\n");
    let mut last = String::new();
    while !is_over.load(Ordering::SeqCst) {
        let now = picture(cluster);
        if now != last {
            println!("{now}");
            last = now;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("Ending …");
    Ok(())
}

/// One line a member, without what changes all the time.
fn picture(cluster: &Cluster) -> String {
    let asked = (0..cluster.members.len()).find_map(|member| {
        let answer = cluster.get(member, "/cluster").ok()?.json();
        (!members_of(&answer).is_empty()).then_some(answer)
    });
    let Some(asked) = asked else {
        return "  no member answers".to_owned();
    };
    let mut lines = Vec::new();
    for member in members_of(&asked) {
        let text = |key: &str| match &member[key] {
            Value::String(text) => text.clone(),
            Value::Null => "–".to_owned(),
            other => other.to_string(),
        };
        lines.push(format!(
            "  {:<4} {:<12} {:<8} {:<12} timeline {}",
            text("name"),
            text("host"),
            text("role"),
            text("state"),
            text("timeline")
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}
