//! The section of `docs/benchmarks.md`.

use std::fmt::Write as _;

use anyhow::Result;
use cluster_tests::benchmarks;

use crate::Arguments;
use crate::pairs::{Campaign, Pair};
use crate::statistics::{Estimate, estimate};

fn heading(arguments: &Arguments) -> String {
    format!("## Throughput, preset `{}`\n", arguments.preset)
}

/// The whole section.
pub fn text(arguments: &Arguments, campaigns: &[Campaign]) -> String {
    let mut text = String::new();
    let up = match arguments.alone {
        true => "only one side is up at a time, started anew before each run",
        false => "both clusters are up all the time",
    };
    let _ = writeln!(text, "{}", heading(arguments));
    let _ = writeln!(
        text,
        "`pgbench -c {} -j {} -T {}` at scale {}, against our primary and against plain PostgreSQL: the same \
         version, the same parameters as read from our running primary, the same `initdb` options, two \
         standbys made with `pg_basebackup`, each with a slot, nobody to manage them, and in mode `sync` \
         the same `ANY k` of both. Runs in pairs, in {} slices that take turns, the order changing from slice \
         to slice and from pair to pair, a checkpoint before each pair, after {} s of warming; {}. The ratio is ours to \
         plain, within a pair; its median with the interval that holds it with 95 % confidence (order \
         statistics). Not the same on both sides: places and names; slots of the standbys on each other; \
         the marks and probes our daemon writes; whatever clusterd and its guard cost.\n",
        arguments.clients,
        arguments.threads,
        arguments.seconds,
        arguments.scale,
        arguments.slices(),
        arguments.warm,
        up
    );
    let machine = benchmarks::machine("all members of both clusters and pgbench", arguments.major);
    let _ = writeln!(text, "Machine: {machine}.\n");
    let _ = writeln!(
        text,
        "| mode | pairs | tps plain | tps ours | ratio of tps (95 %) | ratio of latency (95 %) |\n\
         |---|---|---|---|---|---|"
    );
    for campaign in campaigns {
        let _ = writeln!(text, "{}", line(campaign));
    }
    for campaign in campaigns {
        let _ = writeln!(text, "\n{}", notes(campaign));
    }
    text
}

fn line(campaign: &Campaign) -> String {
    let pairs = &campaign.pairs;
    let of = |value: &dyn Fn(&Pair) -> f64| estimate(&pairs.iter().map(value).collect::<Vec<_>>());
    format!(
        "| `{}` | {} | {} | {} | {} | {} |",
        campaign.mode.word(),
        pairs.len(),
        whole(of(&|pair| pair.plain.tps)),
        whole(of(&|pair| pair.ours.tps)),
        ratio(of(&|pair| pair.ours.tps / pair.plain.tps)),
        ratio(of(&|pair| pair.ours.latency_ms / pair.plain.latency_ms)),
    )
}

fn whole(estimate: Option<Estimate>) -> String {
    estimate.map_or("–".to_owned(), |it| format!("{:.0}", it.median))
}

fn ratio(estimate: Option<Estimate>) -> String {
    match estimate {
        None => "–".to_owned(),
        Some(it) => match it.interval {
            Some((low, high)) => format!("{:.3} ({low:.3}–{high:.3})", it.median),
            None => format!("{:.3} (too few pairs)", it.median),
        },
    }
}

fn notes(campaign: &Campaign) -> String {
    let loads: Vec<&str> = campaign
        .pairs
        .iter()
        .map(|pair| pair.load.as_str())
        .collect();
    let runs: Vec<String> = campaign
        .pairs
        .iter()
        .map(|pair| {
            let (plain, ours) = (pair.plain, pair.ours);
            match pair.ours_first {
                true => format!("←{:.0}/{:.0}", plain.tps, ours.tps),
                false => format!("{:.0}/{:.0}", plain.tps, ours.tps),
            }
        })
        .collect();
    let names = match campaign.names.as_str() {
        "" => "empty".to_owned(),
        names => format!("`{names}`"),
    };
    format!(
        "`{}`: `synchronous_standby_names` {names}; {} parameters alike; data directories on {}. While \
         plain PostgreSQL ran, our idle daemons and guards took {:.1} % of one core, which favours the \
         ratio by at most that. Load average before each pair: {}. Transactions a second, plain/ours, ← \
         where ours was first: {}.",
        campaign.mode.word(),
        campaign.parameters,
        campaign.volume,
        100.0 * campaign.idle_share,
        loads.join(" "),
        runs.join(", ")
    )
}

/// Puts the section into `docs/benchmarks.md`, in place of the one of the same preset.
pub fn write(arguments: &Arguments, text: &str) -> Result<()> {
    benchmarks::write_section(&heading(arguments), text)
}
