//! Reads what `pg_controldata` prints. Not for deciding anything.
//!
//! The surprise: the labels are translated unless the tool runs with `LC_ALL=C`, which `tool` sees to.

use std::collections::BTreeMap;

use cluster_core::model::postgres::Stopped;
use cluster_core::model::{Lsn, TimelineId};

use super::Error;

/// The parts of the control file we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlData {
    /// `Database system identifier`.
    pub system_identifier: u64,
    /// `Database cluster state`.
    pub state: String,
    /// `Latest checkpoint location`.
    pub checkpoint: Lsn,
    /// `Latest checkpoint's REDO location`.
    pub redo: Lsn,
    /// `Latest checkpoint's TimeLineID`.
    pub checkpoint_timeline: TimelineId,
    /// `Minimum recovery ending location`.
    pub min_recovery_end: Lsn,
    /// `Min recovery ending loc's timeline`; none when zero.
    pub min_recovery_timeline: Option<TimelineId>,
    /// `End-of-backup record required`, or a backup start location: the copy is not consistent yet.
    pub backup_end_required: bool,
    /// Whether pages carry checksums.
    pub has_checksums: bool,
    /// `wal_log_hints setting`.
    pub wal_log_hints: bool,
    /// `wal_level setting`.
    pub wal_level: String,
    /// `Bytes per WAL segment`.
    pub wal_segment_bytes: u64,
    /// The values of the primary that recovery refuses to go below.
    pub recovery_parameters: BTreeMap<&'static str, u32>,
}

/// Parameters that recovery refuses to run with below the primary's value, and their labels.
pub const RECOVERY_PARAMETERS: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_worker_processes", "max_worker_processes setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
];

/// What a server has of one of [`RECOVERY_PARAMETERS`] that nobody sets. Source: PostgreSQL's manual, the
/// same from 13 to 18.
pub fn recovery_default(name: &str) -> u32 {
    match name {
        "max_connections" => 100,
        "max_worker_processes" => 8,
        "max_wal_senders" => 10,
        "max_locks_per_transaction" => 64,
        _ => 0,
    }
}

impl ControlData {
    /// Reads the output of `pg_controldata`.
    pub fn parse(text: &str) -> Result<ControlData, Error> {
        let fields: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(label, value)| (label.trim(), value.trim()))
            .collect();
        let get = |label: &str| {
            fields
                .get(label)
                .copied()
                .ok_or_else(|| Error::ControlData {
                    label: label.to_owned(),
                })
        };
        let bad = |label: &str| Error::ControlData {
            label: label.to_owned(),
        };
        let number = |label: &str| get(label)?.parse::<u64>().map_err(|_| bad(label));
        let lsn = |label: &str| get(label)?.parse::<Lsn>().map_err(|_| bad(label));
        let timeline = |label: &str| {
            get(label)?
                .parse::<u32>()
                .map(TimelineId)
                .map_err(|_| bad(label))
        };
        let min_timeline = timeline("Min recovery ending loc's timeline")?;
        let backup_start = lsn("Backup start location")?;
        let mut recovery_parameters = BTreeMap::new();
        for (name, label) in RECOVERY_PARAMETERS {
            let value = get(label)?.parse::<u32>().map_err(|_| bad(label))?;
            recovery_parameters.insert(name, value);
        }
        Ok(ControlData {
            system_identifier: number("Database system identifier")?,
            state: get("Database cluster state")?.to_owned(),
            checkpoint: lsn("Latest checkpoint location")?,
            redo: lsn("Latest checkpoint's REDO location")?,
            checkpoint_timeline: timeline("Latest checkpoint's TimeLineID")?,
            min_recovery_end: lsn("Minimum recovery ending location")?,
            min_recovery_timeline: (min_timeline.0 != 0).then_some(min_timeline),
            backup_end_required: get("End-of-backup record required")? == "yes"
                || backup_start != Lsn::ZERO,
            has_checksums: number("Data page checksum version")? != 0,
            wal_log_hints: get("wal_log_hints setting")? == "on",
            wal_level: get("wal_level setting")?.to_owned(),
            wal_segment_bytes: number("Bytes per WAL segment")?,
            recovery_parameters,
        })
    }

    /// Whether the last stop was clean.
    pub fn is_clean(&self) -> bool {
        self.state == "shut down" || self.state == "shut down in recovery"
    }

    /// The part that goes into a report. A copy that was never started (`is_copy`) shows the state of
    /// its source, and begins in recovery.
    pub fn stopped(&self, has_signal: bool, is_copy: bool) -> Stopped {
        Stopped {
            clean: self.is_clean(),
            was_in_recovery: is_copy
                || matches!(
                    self.state.as_str(),
                    "shut down in recovery" | "in archive recovery"
                ),
            checkpoint_timeline: self.checkpoint_timeline,
            checkpoint: self.checkpoint,
            min_recovery_end: self.min_recovery_end,
            min_recovery_timeline: self.min_recovery_timeline,
            has_signal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
pg_control version number:            1300
Database system identifier:           7710774078895841973
Database cluster state:               shut down in recovery
Latest checkpoint location:           0/3000060
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/30000D8
Min recovery ending loc's timeline:   2
Backup start location:                0/0
Backup end location:                  0/0
End-of-backup record required:        no
wal_level setting:                    replica
wal_log_hints setting:                on
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              16
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
Bytes per WAL segment:                4194304
Data page checksum version:           1
";

    #[test]
    fn a_control_file_is_read() {
        let data = ControlData::parse(SAMPLE).expect("valid");
        assert!(data.is_clean() && data.has_checksums);
        assert_eq!(data.checkpoint, Lsn(0x300_0060));
        assert_eq!(data.recovery_parameters["max_wal_senders"], 16);
        let stopped = data.stopped(true, false);
        assert!(stopped.was_in_recovery && stopped.has_signal);
        assert_eq!(stopped.min_recovery_timeline, Some(TimelineId(2)));
    }

    #[test]
    fn a_missing_label_is_named() {
        let text = SAMPLE.replace("Backup start location", "Something else");
        let error = ControlData::parse(&text).expect_err("a label is missing");
        assert!(
            error.to_string().contains("Backup start location"),
            "{error}"
        );
    }
}
